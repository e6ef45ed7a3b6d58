"""aider's repo map, measured as `infbox-watch evaluate` measures what infbox shows.

    python -m bench.peers.maps --environment DIR REPO … [--commits 100] [--budget 32000]

The map is made anew for each commit's message, of the tree before it, with the words of the message
as the identifiers that were mentioned and the whole budget; tokens are estimated from bytes, as
`evaluate` estimates them. A line counts as shown if the map has it under its file's name. Only
questions about source files are sent. The environment has aider-chat; nothing of it is imported
here.
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infbox.evaluation import evaluate as measure
from infbox.evaluation.history import History
from infbox.kinds import FileKind, kind_of
from infbox.packing.tokens import BYTES_PER_TOKEN
from infbox.retrieval.questions import read as read_question

from ..workload import git

LINE = 99
"""Characters of a line that a map has at most."""

_MAPPER = """
import json, os, re, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from aider.repomap import RepoMap

class Files:
    def read_text(self, file):
        try:
            with open(file, encoding="utf-8") as stream:
                return stream.read()
        except (OSError, UnicodeDecodeError):
            return None
    def tool_output(self, *_, **__): pass
    tool_warning = tool_error = tool_output

class Estimate:
    def token_count(self, text): return len(text.encode()) / bytes_per_token

root, budget, bytes_per_token = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
os.chdir(root)
mapper = RepoMap(map_tokens=budget, root=root, main_model=Estimate(), io=Files(), refresh="always",
                 map_mul_no_files=1)
for line in sys.stdin:
    asked = json.loads(line)
    files = [os.path.join(root, file) for file in asked["files"]]
    words = set(re.findall(r"\\w+", asked["question"]))
    found = mapper.get_repo_map([], files, mentioned_idents=words, force_refresh=True)
    print(json.dumps(found or ""), flush=True)
"""


@dataclass
class Mapper:
    """aider, which maps a tree.

    Args:
        python: of an environment that has it.
        root: of the tree.
        budget: of a map, in tokens.
    """

    python: Path
    root: Path
    budget: int
    _process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        self._process = subprocess.Popen(
            [self.python, "-c", _MAPPER, self.root, str(self.budget), str(BYTES_PER_TOKEN)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def map(self, question: str, files: Sequence[str]) -> str:
        """Return the map of files for a question."""
        line = ""
        if self._process.stdin and self._process.stdout:
            self._process.stdin.write(json.dumps({"question": question, "files": files}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise SystemExit("aider ended: has the environment aider-chat?")
        return str(json.loads(line))


@dataclass
class Seen:
    """What maps showed of source files."""

    questions: int = 0
    hunks: int = 0
    shown: int = 0
    files: int = 0
    located: int = 0

    def __str__(self) -> str:
        return (
            f"{self.questions} questions, {self.shown} of {self.hunks} hunks shown, "
            f"{self.located} of {self.files} source files located"
        )

    def count(self, wanted: Sequence[measure.Wanted], lines: Mapping[str, set[str]]) -> None:
        """Count a question: the files that were wanted, and the lines that were shown of each."""
        self.questions += 1
        for each in wanted:
            self._count_file(each, lines)

    def _count_file(self, wanted: measure.Wanted, lines: Mapping[str, set[str]]) -> None:
        own = [line[:LINE] for line in wanted.old.text.split("\n")]
        self.files += 1
        self.located += wanted.path in lines
        for first, last in wanted.hunks:
            self.hunks += 1
            self.shown += {*own[first - 1 : last]} <= lines.get(wanted.path, set())


def shown(text: str) -> dict[str, set[str]]:
    """Return the lines that a map has, by the path that they stand under."""
    found: dict[str, set[str]] = defaultdict(set)
    path = ""
    for line in text.split("\n"):
        if line.startswith("│"):
            found[path].add(line[1:][:LINE])
        elif line.endswith(":"):
            path = line[:-1]
    return found


def asked(history: History, commits: int) -> Iterator[tuple[str, str, list[measure.Wanted]]]:
    """Yield the commit before, the question and what must be seen, where that is source."""
    for parent, commit in history.steps(commits):
        saves = list(history.saves(parent, commit))
        wanted = list(measure.wanted_of(saves))
        if measure.is_sweep(saves, wanted):
            continue
        tree = {path for path, _ in history.files(parent)}
        message = history.message(commit)[: measure.MAX_MESSAGE]
        question = measure.without_names(message, [save.path for save in saves], tree)
        source = [each for each in wanted if kind_of(each.path) is FileKind.SOURCE]
        if source and read_question(question).words:
            yield parent, question, source


def evaluate(python: Path, repository: Path, commits: int, budget: int) -> Seen:
    """Replay a history.

    Args:
        python: of an environment that has aider-chat.
        repository: bare or not.
        commits: how many of the last.
        budget: of a map, in tokens.
    """
    seen = Seen()
    with (
        tempfile.TemporaryDirectory(prefix="infbox-bench-") as name,
        History(repository) as history,
    ):
        root = Path(name) / "tree"
        git(Path(name), "clone", "--quiet", "--no-checkout", str(repository.resolve()), str(root))
        with contextlib.closing(Mapper(python, root, budget)) as mapper:
            for parent, question, wanted in asked(history, commits):
                git(root, "checkout", "--quiet", "--force", parent)
                lines = shown(
                    mapper.map(question, sorted(path for path, _ in history.files(parent)))
                )
                seen.count(wanted, lines)
    return seen


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return what reads the arguments of a benchmark that replays histories.

    Args:
        name: of its module here.
        description: of it, for people.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.peers.{name}", description=description)
    parser.add_argument("repositories", metavar="REPO", nargs="+", type=Path)
    parser.add_argument("--commits", type=int, default=100, metavar="N")
    parser.add_argument("--budget", type=int, default=32_000, metavar="TOKENS")
    return parser


def main() -> None:
    """Replay histories, and print what was shown."""
    parser = arguments("maps", __doc__)
    parser.add_argument("--environment", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    for repository in given.repositories:
        python = given.environment / "bin" / "python"
        seen = evaluate(python, repository, given.commits, given.budget)
        print(f"{repository}: {seen}", flush=True)


if __name__ == "__main__":
    main()
