"""What `repomix --compress` shows, measured as `bench.peers.maps` measures aider's map.

    python -m bench.peers.compressed REPO … [--program FILE] [--commits 100] [--budget 32000]

repomix makes one text of a tree, with signatures in place of bodies. It knows no question and no
budget: its text is cut in its own order once the budget is full, and once more from its end. Tokens
are estimated from bytes as `evaluate` does, without what stands before the first file. Beside it
stands
the processor time of one text of the tree, and of a pack of the same budget. It is an npm package
(`npm install repomix`, into a directory of its own) and is skipped where it is not on the PATH.
"""

import shutil
import statistics
import sysconfig
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from infbox.evaluation.history import History
from infbox.packing.tokens import BYTES_PER_TOKEN

from ..workload import git
from .maps import LINE, Seen, arguments, asked
from .trees import run

_RULE = "=" * 16
_FILE = "File: "


@dataclass
class Compared:
    """What was shown, and the seconds of a processor that each text took."""

    seen: Seen = field(default_factory=Seen)
    from_end: Seen = field(default_factory=Seen)
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    whole: int = 0
    """Tokens of repomix's last text, before it was cut."""


def shown(text: str) -> dict[str, set[str]]:
    """Return the lines that a text of repomix's has, by the path that they stand under."""
    found: dict[str, set[str]] = defaultdict(set)
    path = before = ""
    for line in text.split("\n"):
        if before == _RULE and line.startswith(_FILE):
            path = line.removeprefix(_FILE)
            found[path].clear()
        elif path:
            found[path].add(line[:LINE])
        before = line
    return found


def cut(text: str, budget: int, *, from_end: bool = False) -> str:
    """Return the first or last files of a text, as many bytes as a budget of tokens may have."""
    data = text[max(text.find(f"{_RULE}\n{_FILE}"), 0) :].encode()
    most = int(budget * BYTES_PER_TOKEN)
    return (data[-most:] if from_end else data[:most]).decode(errors="ignore")


def evaluate(program: Path, repository: Path, commits: int, budget: int) -> Compared:
    """Replay a history.

    Args:
        program: repomix.
        repository: bare or not.
        commits: how many of the last.
        budget: of a text, in tokens.
    """
    compared = Compared()
    watch = Path(sysconfig.get_path("scripts")) / "infbox-watch"
    with (
        tempfile.TemporaryDirectory(prefix="infbox-bench-") as name,
        History(repository) as history,
    ):
        root, out = Path(name) / "tree", Path(name) / "text"
        git(Path(name), "clone", "--quiet", "--no-checkout", str(repository.resolve()), str(root))
        theirs = [str(program), "--compress", "--style", "plain", "--quiet", "-o", str(out)]
        ours = [str(watch), "pack", str(root), "--budget", str(budget)]
        for parent, _, wanted in asked(history, commits):
            git(root, "checkout", "--quiet", "--force", parent)
            with (Path(name) / "said").open("wb") as said:
                compared.theirs.append(run([*theirs, str(root)], said.fileno(), Path(name))[0])
                compared.ours.append(run(ours, said.fileno(), Path(name))[0])
            text = out.read_text(errors="replace")
            compared.whole = round(len(text.encode()) / BYTES_PER_TOKEN)
            for seen, from_end in ((compared.seen, False), (compared.from_end, True)):
                seen.count(wanted, shown(cut(text, budget, from_end=from_end)))
    return compared


def main() -> None:
    """Replay histories, and print what was shown."""
    parser = arguments("compressed", __doc__)
    parser.add_argument("--program", type=Path, metavar="FILE", help="repomix; else on the PATH")
    given = parser.parse_args()
    program = given.program or shutil.which("repomix")
    if not program or not Path(program).exists():
        print("repomix is not here: skipped. Install it by npm, and name it by --program.")
        return
    for repository in given.repositories:
        found = evaluate(Path(program).resolve(), repository, given.commits, given.budget)
        for how, seen in (("its first", found.seen), ("its last", found.from_end)):
            print(f"{repository}, {how} tokens of {found.whole}: {seen}", flush=True)
        if found.theirs:
            print(
                f"processor time of a text, median: repomix {statistics.median(found.theirs):.2f} "
                f"s, a pack of infbox's {statistics.median(found.ours):.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
