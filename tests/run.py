"""Run everything that proves the project, and say how it went.

Each stage writes to `.lab/logs/test-STAGE.log`, and what its tests took to a `.xml` beside it. Of
a failed one, what did not hold and the log's end are printed, and at the very end once more in a
few lines what did not hold, after the slowest stages and tests. Some stages run side by side,
since each spends much of its time waiting: first lint and unit tests, while the lab is made.

With `--changed` a stage is left out where nothing that changed can touch it.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.settings import KEEP_MODULES
from tests.stages import ROOT, STAGES, Stage

LOGS = ROOT / ".lab" / "logs"
FAILURE_LINES = 150
# pytest's own words for what did not hold, also as Ansible shows them, an item of a list each.
WRONG = re.compile(r"^[\s'\"-]*(E  |____|FAILED )")
SUMMARY_LINES = 12
SLOWEST = 10
# Two would leave the cores idle while they wait for SSH, disks and clocks.
WORKERS = 3
# An engine needs all cores while it starts: with three, each took longer than clients wait.
ENGINES_AT_ONCE = 2


@dataclass(frozen=True)
class Result:
    """How a stage went.

    Attributes:
        name: of the stage.
        passed: whether all held.
        wrong: pytest's lines on what did not.
        seconds: what it took.
    """

    name: str
    passed: bool
    wrong: Sequence[str]
    seconds: float


def run(stage: Stage) -> Result:
    """Run a stage and print one line about it, with the end of its log where it failed."""
    log = LOGS / f"test-{stage.name}.log"
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    start = time.monotonic()
    say(f"{stage.name:16} ...")
    with log.open("wb") as output:
        done = subprocess.run(
            command(stage),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(report),
            check=False,
        )
    passed = done.returncode == 0
    seconds = time.monotonic() - start
    say(f"{stage.name:16} {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
    if passed:
        return Result(stage.name, passed, [], seconds)
    lines = log.read_text(errors="replace").splitlines()
    wrong = [line for line in lines if WRONG.match(line)]
    # Journals of a host may lie between it and the end.
    say("\n".join([f"--- what did not hold, by {log}", *wrong[:FAILURE_LINES]]))
    say("\n".join(["--- its end", *lines[-FAILURE_LINES:], f"--- {stage.name}"]))
    return Result(stage.name, passed, wrong, seconds)


def command(stage: Stage) -> tuple[str, ...]:
    """Return what a stage runs; what needs no lab leaves the cores to what takes longest."""
    if stage.needs_lab or stage.group == "lab":
        return tuple(stage.command)
    return ("nice", "-n", "5", *stage.command)


def environment(report: Path) -> dict[str, str]:
    """Return the environment of a stage: the virtual environment first, the root importable.

    Args:
        report: where pytest, also the one that molecule runs, says what each test took.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        KEEP_MODULES: "1",
        "PYTEST_ADDOPTS": f"--junit-xml={report}",
    }


def slowest_tests(results: Sequence[Result]) -> list[tuple[float, str]]:
    """Return the slowest tests, the slowest first: seconds, and the stage's and the test's name."""
    tests = []
    for result in results:
        report = LOGS / f"test-{result.name}.xml"
        if report.exists():
            # Written by our own pytest a moment ago.
            cases = ET.parse(report).iter("testcase")  # noqa: S314
            tests += [(float(case.get("time", 0)), f"{result.name} {case.get('name')}")
                      for case in cases]  # fmt: skip
    return sorted(tests, reverse=True)[:SLOWEST]


def say_slowest(results: Sequence[Result]) -> None:
    """Print the slowest stages and the slowest tests."""
    stages = sorted(((result.seconds, result.name) for result in results), reverse=True)[:SLOWEST]
    for title, slowest in (("stages", stages), ("tests", slowest_tests(results))):
        say("\n".join([f"--- the slowest {title}, in seconds",
                       *(f"{seconds:6.0f}  {name}" for seconds, name in slowest)]))  # fmt: skip


def core_seconds() -> tuple[float, float]:
    """Return for how long this machine's cores have computed since its boot, and been there."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words]
    idle = ticks[3] + ticks[4]  # the second is idle as well, while a disk is waited for
    return sum(ticks) - idle, sum(ticks)


def say(text: str) -> None:
    """Print at once, so that a log that is followed shows where the run is."""
    print(text, flush=True)


class Queue:
    """The stages that are still to be run, for several workers.

    Args:
        stages: in the order in which they should begin.
        wants_lab: whether the lab is made first, and what needs it waits until then.
    """

    def __init__(self, stages: Sequence[Stage], *, wants_lab: bool) -> None:
        self.results: list[Result] = []
        self._pending = list(stages)
        self._with_engine = 0
        self._lab_is_there = not wants_lab
        self._changed = threading.Condition()

    def work(self) -> None:
        """Run one stage after the other until none is left."""
        while stage := self._take():
            try:
                result = run(stage)
            except OSError as error:  # others would wait for it for ever
                result = Result(stage.name, passed=False, wrong=[str(error)], seconds=0)
            self._note(stage, result)

    def _take(self) -> Stage | None:
        """Return the first stage that can run now, or None at the end."""
        with self._changed:
            while self._pending:
                for stage in self._pending:
                    if self._can_begin(stage):
                        self._pending.remove(stage)
                        self._with_engine += stage.has_engine
                        return stage
                self._changed.wait()
            return None

    def _can_begin(self, stage: Stage) -> bool:
        """Say whether what a stage needs is there."""
        if stage.has_engine and self._with_engine >= ENGINES_AT_ONCE:
            return False
        return self._lab_is_there or not stage.needs_lab

    def _note(self, stage: Stage, result: Result) -> None:
        """Keep a result; without the lab, what needs it is left out."""
        with self._changed:
            self.results.append(result)
            self._with_engine -= stage.has_engine
            if stage.group == "lab":
                self._lab_is_there = result.passed
                if not result.passed:
                    self._pending = [left for left in self._pending if not left.needs_lab]
            self._changed.notify_all()


def run_stages(stages: Sequence[Stage]) -> list[Result]:
    """Run stages side by side and return how they went, in the order in which they ended."""
    queue = Queue(stages, wants_lab=any(stage.group == "lab" for stage in stages))
    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(queue.work) for _ in range(WORKERS)]:
            future.result()
    return queue.results


def choose(stages: Sequence[Stage], groups: Sequence[str], since: str) -> list[Stage]:
    """Return the stages to run, and say which are left out.

    Args:
        stages: all of them.
        groups: those asked for.
        since: a commit; what nothing that changed since then can touch is left out. All are run
            where it is empty.
    """
    chosen = [stage for stage in stages if stage.group in groups]
    if not since:
        return chosen
    changed = changed_files(since)
    touched = [stage for stage in chosen if stage.group != "lab" and stage.is_touched(changed)]
    labs = [stage for stage in chosen if stage.group == "lab"]
    if any(stage.needs_lab for stage in touched):
        touched = labs + touched
    left_out = [stage.name for stage in chosen if stage not in [*touched, *labs]]
    say(f"{len(changed)} files changed since {since}. Left out, since they cannot touch it: "
        f"{', '.join(left_out) or 'nothing'}.")  # fmt: skip
    return touched


def changed_files(since: str) -> list[str]:
    """Return the paths that differ from a commit, with what is not committed yet.

    Raises:
        SystemExit: there is no such commit.
    """
    commands = (["git", "diff", "--name-only", "-z", since, "--"],
                ["git", "ls-files", "--others", "--exclude-standard", "-z"])  # fmt: skip
    try:
        listed = [subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
                  for command in commands]  # fmt: skip
    except subprocess.CalledProcessError:
        sys.exit(f"There is no commit {since}. Name one that is there: make test CHANGED=HEAD~1")
    return [path for done in listed for path in done.stdout.split("\0") if path]


def main() -> int:
    """Run the stages asked for; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="lint and unit tests, no lab")
    parser.add_argument("--only", choices=("lint", "unit", "roles"), help="one group")
    parser.add_argument(
        "--changed",
        default="",
        metavar="COMMIT",
        help="leave out what no change since then can touch; 1 for what is not committed",
    )
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    groups = [arguments.only] if arguments.only else ["lint", "unit"]
    if not arguments.fast and not arguments.only:
        groups += ["lab", "bootstrap", "roles", "system"]
    since = "HEAD" if arguments.changed == "1" else arguments.changed
    start, (busy, there) = time.monotonic(), core_seconds()
    results = run_stages(choose(STAGES, groups, since))
    if len(results) > 1:
        say_slowest(results)
    ends = core_seconds()
    share = (ends[0] - busy) / max(ends[1] - there, 1)
    say(f"{time.monotonic() - start:.0f} s in all, the cores were busy for {share:.0%} of it")
    failed = [result for result in results if not result.passed]
    for result in failed:
        say("\n".join([f"--- {result.name} FAILED", *result.wrong[:SUMMARY_LINES]]))
    say(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
