"""What proves the project: the stages of `make test`, and which files cannot touch one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What takes over a minute and a half, the longest first, by what the last runs of all stages took:
# the short ones fill the gaps and the end. Those that are not named follow as they stand below.
LONGEST_FIRST = (
    "lab", "system", "bootstrap", "unit-watcher", "role-watcher", "role-model_store", "sign-in",
    "role-nvidia_driver", "role-stack", "unit", "role-backup", "cake", "role-docker",
    "role-nvidia_container_toolkit", "role-dcgm", "page", "ansible-lint", "role-caddy",
)  # fmt: skip
# Where vLLM serves.
WITH_ENGINE = ("system", "bootstrap", "cake")
# Of the system tests the one that does not share its host with the others.
HOST_OF_ITS_OWN = "tests/system/test_gpus_without_driver_stub.py"
# What people, linters and unit tests read, and nothing on a lab host.
NO_LAB = ("*.md", "*.svg", "bench/*", "docs/*", "demo/*", "tools/*", "tests/tools/*",
          "tests/plugins/*", "tests/playbooks/*", "tests/roles/*", "tests/scale/*",
          "watcher/tests/*")  # fmt: skip
# What they tell people to type is typed against the deployed host.
PAGES_OF_A_HOST = ("README.md", "docs/api.md", "docs/operating.md", "docs/status.md",
                   "docs/troubleshooting.md")  # fmt: skip
NOT_OF_THE_WATCHER = ("*.md", "docs/*", "roles/*", "molecule/*", "playbooks/*", "tests/*")


@dataclass(frozen=True)
class Stage:
    """One thing to prove.

    Attributes:
        name: a word or two, also the log's name.
        command: what proves it, run from the root.
        group: ``lint``, ``unit``, ``lab``, ``roles``, ``bootstrap`` or ``system``.
        untouched_by: patterns of files that cannot change how it ends.
        touched_by: files that can, whatever pattern is of them too.
    """

    name: str
    command: Sequence[str]
    group: str
    untouched_by: Sequence[str] = ()
    touched_by: Sequence[str] = ()

    @property
    def needs_lab(self) -> bool:
        """Whether the lab must be there."""
        return self.group in ("roles", "bootstrap", "system")

    @property
    def has_engine(self) -> bool:
        """Whether vLLM serves on a lab host of it."""
        return self.name in WITH_ENGINE

    def is_touched(self, changed: Iterable[str]) -> bool:
        """Say whether a change can touch it: where in doubt, it can.

        Args:
            changed: paths below the root.
        """
        return not all(
            path not in self.touched_by
            and any(fnmatchcase(path, pattern) for pattern in self.untouched_by)
            for path in changed
        )


def pytest(*arguments: str) -> tuple[str, ...]:
    """Return a command that runs pytest."""
    return ("pytest", "-q", *arguments)


def scenario(name: str) -> Stage:
    """Return the stage of a role's molecule scenario.

    What belongs to another role, or another scenario, cannot touch it unless a file of the role or
    the scenario names that role.
    """
    folders = [ROOT / "molecule" / name, ROOT / "roles" / name]
    texts = [path.read_text(errors="replace")
             for folder in folders for path in folder.rglob("*") if path.is_file()]  # fmt: skip
    named = {word for text in texts for word in re.findall(r"[a-z_]+", text)} | {"common", name}
    others = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()} - named
    own = [f"{folder}/{other}/*" for other in sorted(others) for folder in ("molecule", "roles")]
    command = ("molecule", "test", "--scenario-name", name)
    own += ["tests/conformance/*", "tests/system/*"]
    return Stage(f"role-{name}", command, "roles", (*NO_LAB, *own))


def by_length(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Return stages in the order in which they should begin."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    return tuple(sorted(stages, key=lambda stage: places.get(stage.name, len(places))))


STAGES = by_length((
    Stage("lab", ("python", "-m", "lab", "up"), "lab"),
    Stage("system", pytest("-m", "lab and not long", "--ignore", HOST_OF_ITS_OWN, "tests/system"),
          "system", NO_LAB, PAGES_OF_A_HOST),
    Stage("bootstrap", pytest("-m", "lab", "tests/bootstrap"), "bootstrap", NO_LAB),
    Stage("system-gpus", pytest("-m", "lab", HOST_OF_ITS_OWN), "system", NO_LAB),
    Stage("ansible-lint", ("ansible-lint", "--offline", "--profile", "production"), "lint",
          ("*.md", "*.py", "docs/*", "watcher/*")),
    # By file, since what a module asks a playbook once would else be asked by each worker.
    Stage("unit", pytest("-n", "2", "--dist", "loadfile", "-m", "not lab",
                         "--ignore", "tests/docs", "tests", "cake/tests"),
          "unit",
          ("*.md", "docs/*", "watcher/tests/*")),
    Stage("pages", pytest("tests/docs"), "unit"),
    Stage("unit-watcher", pytest("-n", "2", "-c", "watcher/pyproject.toml",
                                 "--ignore", "watcher/tests/fuzz", "watcher/tests"),
          "unit", NOT_OF_THE_WATCHER),
    Stage("fuzz", pytest("-n", "2", "--dist", "loadfile", "-c", "watcher/pyproject.toml",
                         "watcher/tests/fuzz"),
          "unit", NOT_OF_THE_WATCHER),
    Stage("ruff", ("sh", "-c", "ruff check . && ruff format --check ."), "lint"),
    Stage("mypy", ("mypy",), "lint"),
    Stage("mypy-watcher", ("mypy", "--config-file", "watcher/pyproject.toml", "watcher/src"),
          "lint"),
    # What a laptop runs, by what Python has on its system.
    *(Stage(f"mypy-{system}",
            ("mypy", "--config-file", "watcher/pyproject.toml", "--platform", system,
             "--cache-dir", f".mypy_cache/{system}", "watcher/src/infbox/mirror"),
            "lint")
      for system in ("darwin", "win32")),
    Stage("yamllint", ("yamllint", "--strict", "."), "lint"),
    Stage("shellcheck", ("shellcheck", "bootstrap.sh", ".ci/run"), "lint"),
    Stage("specs", ("python", "tools/check_specs.py"), "lint"),
    Stage("documents", ("python", "tools/role_docs.py", "--check"), "lint"),
    Stage("addresses", ("python", "tools/check_addresses.py"), "lint"),
    Stage("dashboards", ("python", "tools/dashboards.py", "--check"), "lint"),
    Stage("alerts", ("python", "tools/check_alerts.py"), "lint"),
    # Rules are tried with promtool, which the lab's image has.
    Stage("rules", pytest("-m", "lab", "tests/monitoring"), "roles", NO_LAB),
    *(scenario(file.parent.name) for file in sorted(ROOT.glob("molecule/*/molecule.yml"))),
    Stage("sign-in", pytest("-m", "lab", "tests/caddy"), "roles", NO_LAB),
    Stage("collection", pytest("-m", "lab and not long", "tests/collection"), "roles", NO_LAB),
    Stage("valkey-client", pytest("-m", "lab", "tests/valkey"), "roles", NO_LAB),
    Stage("cake", pytest("-m", "lab", "tests/cake"), "roles", NO_LAB),
    Stage("gpu-presets", pytest("-m", "lab and not long", "tests/engine"), "roles", NO_LAB),
    Stage("page", pytest("-m", "lab", "tests/page"), "roles", NO_LAB),
))  # fmt: skip
