"""Run everything that proves the project, and say how it went.

Each stage writes to `.lab/logs/test-STAGE.log`. Of a failed one, what did not hold and the log's
end are printed, and at the very end once more in a few lines what did not hold. Lint and unit
tests run while the lab is made; after that two stages run at a time, since each spends much of
its time waiting.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".lab" / "logs"
FAILURE_LINES = 150
# pytest's own words for what did not hold, also as Ansible shows them, an item of a list each.
WRONG = re.compile(r"^[\s'\"-]*(E  |____|FAILED )")
SUMMARY_LINES = 12
WORKERS = 2


@dataclass(frozen=True)
class Stage:
    """One thing to prove.

    Attributes:
        name: a word or two, also the log's name.
        command: what proves it, run from the root.
        group: ``lint``, ``unit``, ``lab``, ``roles``, ``bootstrap`` or ``system``.
    """

    name: str
    command: Sequence[str]
    group: str


# The slowest first, so that the short ones fill the gaps.
STAGES = (
    Stage("lab", ("python", "-m", "lab", "up"), "lab"),
    Stage("ansible-lint", ("ansible-lint", "--offline", "--profile", "production"), "lint"),
    Stage("ruff", ("sh", "-c", "ruff check . && ruff format --check ."), "lint"),
    Stage("mypy", ("mypy",), "lint"),
    Stage("mypy-watcher", ("mypy", "--config-file", "watcher/pyproject.toml", "watcher/src"),
          "lint"),
    Stage("yamllint", ("yamllint", "--strict", "."), "lint"),
    Stage("shellcheck", ("shellcheck", "bootstrap.sh", ".ci/run"), "lint"),
    Stage("specs", ("python", "tools/check_specs.py"), "lint"),
    Stage("documents", ("python", "tools/role_docs.py", "--check"), "lint"),
    Stage("addresses", ("python", "tools/check_addresses.py"), "lint"),
    Stage("dashboards", ("python", "tools/dashboards.py", "--check"), "lint"),
    Stage("alerts", ("python", "tools/check_alerts.py"), "lint"),
    Stage("unit", ("pytest", "-q", "-n", "2", "-m", "not lab", "tests", "cake/tests"), "unit"),
    Stage("unit-watcher", ("pytest", "-q", "-n", "2", "-c", "watcher/pyproject.toml",
                           "--ignore", "watcher/tests/fuzz", "watcher/tests"), "unit"),
    Stage("fuzz", ("pytest", "-q", "-n", "2", "--dist", "loadfile", "-c", "watcher/pyproject.toml",
                   "watcher/tests/fuzz"), "unit"),
    Stage("system", ("pytest", "-q", "--durations", "20", "-m", "lab and not long", "tests/system"),
          "system"),
    Stage("bootstrap", ("pytest", "-q", "-m", "lab", "tests/bootstrap"), "bootstrap"),
    # Rules are tried with promtool, which the lab's image has.
    Stage("rules", ("pytest", "-q", "-m", "lab", "tests/monitoring"), "roles"),
    *(
        Stage(f"role-{file.parent.name}",
              ("molecule", "test", "--scenario-name", file.parent.name), "roles")
        for file in sorted(ROOT.glob("molecule/*/molecule.yml"))
    ),
    Stage("sign-in", ("pytest", "-q", "-m", "lab", "tests/caddy"), "roles"),
    Stage("valkey-client", ("pytest", "-q", "-m", "lab", "tests/valkey"), "roles"),
    Stage("cake", ("pytest", "-q", "-m", "lab", "tests/cake"), "roles"),
    Stage("gpu-presets", ("pytest", "-q", "-m", "lab and not long", "tests/engine"), "roles"),
    Stage("page", ("pytest", "-q", "-m", "lab", "tests/page"), "roles"),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """How a stage went.

    Attributes:
        name: of the stage.
        passed: whether all held.
        wrong: pytest's lines on what did not.
    """

    name: str
    passed: bool
    wrong: Sequence[str]


def run(stage: Stage) -> Result:
    """Run a stage and print one line about it, with the end of its log where it failed."""
    log = LOGS / f"test-{stage.name}.log"
    start = time.monotonic()
    say(f"{stage.name:16} ...")
    with log.open("wb") as output:
        done = subprocess.run(
            stage.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            check=False,
        )
    passed = done.returncode == 0
    say(f"{stage.name:16} {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    if passed:
        return Result(stage.name, passed, [])
    lines = log.read_text(errors="replace").splitlines()
    wrong = [line for line in lines if WRONG.match(line)]
    # Journals of a host may lie between it and the end.
    say("\n".join([f"--- what did not hold, by {log}", *wrong[:FAILURE_LINES]]))
    say("\n".join(["--- its end", *lines[-FAILURE_LINES:], f"--- {stage.name}"]))
    return Result(stage.name, passed, wrong)


def environment() -> dict[str, str]:
    """Return the environment of a stage: the virtual environment first, the root importable."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def say(text: str) -> None:
    """Print at once, so that a log that is followed shows where the run is."""
    print(text, flush=True)


def run_groups(groups: Sequence[str]) -> list[Result]:
    """Run the stages of `groups`; what needs the lab waits for it, and is left out without it."""

    def chosen(*names: str) -> list[Stage]:
        return [s for s in STAGES if s.group in names and s.group in groups]

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(run, chosen("lab", "lint", "unit")))
        if not all(result.passed for result in results[: len(chosen("lab"))]):
            return results
        return results + list(pool.map(run, chosen("system", "bootstrap", "roles")))


def main() -> int:
    """Run the stages asked for; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="lint and unit tests, no lab")
    parser.add_argument("--only", choices=("lint", "unit", "roles"), help="one group")
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    groups = ["lint", "unit"]
    if not arguments.fast:
        groups += ["lab", "bootstrap", "roles", "system"]
    start = time.monotonic()
    results = run_groups([arguments.only] if arguments.only else groups)
    say(f"{time.monotonic() - start:.0f} s in all")
    failed = [result for result in results if not result.passed]
    for result in failed:
        say("\n".join([f"--- {result.name} FAILED", *result.wrong[:SUMMARY_LINES]]))
    say(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
