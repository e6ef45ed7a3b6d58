"""Running a scenario's role once more, with other variables, against the scenario's own host."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def converge(*options: str, **variables: Any) -> tuple[int, str]:
    """Run the role of the scenario whose tests these are.

    Args:
        options: further options of ansible-playbook, such as ``--check``.
        variables: they win over the scenario's own.

    Returns:
        The exit status, and what it said, with words joined as a person reads them.
    """
    playbook = ROOT / "molecule" / "shared" / "converge.yml"
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    done = subprocess.run(
        ["ansible-playbook", "--inventory", inventory, playbook, *options,
         "--extra-vars", json.dumps(variables)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())
