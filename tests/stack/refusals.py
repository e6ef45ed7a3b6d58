"""Asking a role what it refuses: many cases in one run, each a host of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def refusals(
    folder: Path, role: str, cases: Mapping[str, Mapping[str, Any]], *, check: bool = True
) -> dict[str, str]:
    """Run a role against this machine, once a case, and return why each run ended.

    Args:
        folder: where the playbook and the inventory are written.
        role: name of the role.
        cases: the variables of each case, by its name.
        check: run in check mode, in which a case that is not refused does no harm.

    Returns:
        The message of the task that failed; empty where none did.
    """
    play = {"hosts": "all", "gather_facts": False, "roles": [role]}
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {name: {**common, **variables} for name, variables in cases.items()}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "inventory.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    mode = ["--check"] if check else []
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "--inventory", folder / "inventory.yml",
         folder / "play.yml", *mode],
        capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
             "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_FORKS": "4"},
    )  # fmt: skip
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    said = dict.fromkeys(cases, "")
    for task in json.loads(done.stdout)["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            if result.get("failed"):
                said[host] = message(result)
    return said


def message(result: Mapping[str, Any]) -> str:
    """Return the message of a failed task; of a loop, that of the item that failed."""
    failed = [item for item in result.get("results", []) if item.get("failed")]
    return " ".join(str((failed or [result])[0]["msg"]).split())
