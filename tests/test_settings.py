"""The settings table is seen from everywhere, and never wins over what a user set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("inventory", "inventory-group-vars-all", "inventory-group-vars-group", "host")


def setting(inventory: Path, playbook_dir: Path, name: str) -> object:
    """Return a setting as a playbook in `playbook_dir` sees it, from a directory of no account."""
    environment = {key: text for key, text in os.environ.items() if key != "ANSIBLE_CONFIG"}
    output = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "all", "--inventory", inventory,
         "--playbook-dir", playbook_dir, "--module-name", "debug",
         "--args", f"var=_infbox_settings.{name}"],
        cwd=inventory.parent, env={**environment, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    value: object = json.loads(output.partition("=>")[2])[f"_infbox_settings.{name}"]
    return value


def inventory_with(folder: Path, place: str, variables: dict[str, str]) -> Path:
    """Write an inventory that sets variables in one of the places where a user may."""
    host: dict[str, object] = {"ansible_connection": "local"}
    group: dict[str, object] = {"hosts": {"gpu1": host}}
    if place == "host":
        host.update(variables)
    if place == "inventory":
        group["vars"] = variables
    inventory = folder / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(json.dumps({"inference": group}))
    if place.startswith("inventory-group-vars"):
        name = "all.yml" if place.endswith("all") else "inference.yml"
        (inventory / "group_vars" / name).write_text(json.dumps(variables))
    return inventory


@pytest.mark.parametrize("playbook_dir", [ROOT, ROOT / "playbooks"], ids=["site", "playbooks"])
def test_the_same_defaults_hold_for_every_playbook(tmp_path: Path, playbook_dir: Path) -> None:
    inventory = inventory_with(tmp_path, "nowhere", {})
    assert setting(inventory, playbook_dir, "preset") == "auto"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("playbook_dir", [ROOT, ROOT / "playbooks"], ids=["site", "playbooks"])
def test_what_a_user_set_wins(tmp_path: Path, playbook_dir: Path, place: str) -> None:
    inventory = inventory_with(tmp_path, place, {"infbox_preset": "mine"})
    assert setting(inventory, playbook_dir, "preset") == "mine"
