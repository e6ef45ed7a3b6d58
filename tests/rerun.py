"""Running playbooks against the host of the scenario whose tests these are."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONVERGE = ROOT / "molecule" / "shared" / "converge.yml"


def play(
    playbook: Path,
    *options: str,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    **variables: Any,
) -> tuple[int, str]:
    """Run a playbook as a person would.

    Args:
        playbook: its file.
        options: further options of ansible-playbook, such as ``--check``.
        folder: where it is run from.
        environment: what is set for it beside the scenario's own environment.
        variables: they win over the scenario's own.

    Returns:
        The exit status, and all that was to be seen.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), playbook,
         "--inventory", os.environ["MOLECULE_INVENTORY_FILE"],
         "--extra-vars", json.dumps(variables), *options],
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1",
             **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=folder,
    )  # fmt: skip
    return done.returncode, done.stdout


def told(playbook: Path, *options: str, **given: Any) -> tuple[int, str]:
    """Run a playbook and return what `play` does, with words joined as a person reads them."""
    status, seen = play(playbook, *options, **given)
    return status, " ".join(seen.split())


def converge(*options: str, **variables: Any) -> tuple[int, str]:
    """Run the scenario's role once more; arguments and what is returned are those of `told`."""
    return told(CONVERGE, *options, **variables)
