"""The preflight role on a lab host: the scenario's own variables pass, these are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from tests.rerun import ROOT, told

BAD: dict[str, Any] = {
    "preflight_presets": {"cpu": {"gpus": 0, "host_memory_gb": 1e5, "disk_gb": 1e5}},
    "preflight_workspaces": [
        {"name": "gone", "path": "/srv/gone"},
        {"name": "file", "path": "/etc/hostname"},
        {"name": "shop", "path": "/srv/shop"},
        {"name": "link", "path": "/srv/link"},
        {"name": "closed", "path": "/root"},
    ],
    "preflight_reader": {"name": "infbox", "uid": 64430, "groups": [], "hint": "Open it"},
    "preflight_users": [{"name": "infbox", "uid": 64430}],
    "preflight_model_path": "/srv/shop",
    "preflight_ports": [
        {"port": 8000, "address": "127.0.0.1", "purpose": "vLLM"},
        {"port": 8012, "address": "127.0.0.1", "purpose": "one"},
        {"port": 8013, "address": "", "purpose": "two"},
        {"port": 22, "purpose": "three", "setting": "infbox_port"},
    ],
    "infbox_presett": "cpu",
}


def run(folder: Path, plays: list[dict[str, Any]], **variables: Any) -> tuple[int, str]:
    """Return the exit status of a run against the lab host, and all that it said in one line."""
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps(plays))
    return told(playbook, **variables)


@pytest.fixture(scope="module")
def refusal(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a run says that has everything wrong."""
    host.check_output("ln -sfn /srv/shop /srv/link && useradd --uid 64430 stranger")
    play = {"hosts": "all", "gather_facts": False, "roles": ["preflight"]}
    status, said = run(tmp_path_factory.mktemp("play"), [play], **BAD)
    host.check_output("userdel stranger && rm /srv/link")
    assert status != 0
    assert "changed=0" in said
    return said


@pytest.mark.parametrize(
    "words",
    [
        "infbox_presett is not a setting.",
        "Preset cpu needs 100000 GB of memory, this host has",
        "Preset cpu needs 100000 GB of disk, this host has",
        "The path of workspace gone does not exist: /srv/gone.",
        "The path of workspace file is not a directory: /etc/hostname.",
        "Workspaces shop and link are the same directory: /srv/shop.",
        "The user infbox may not read the workspace closed: /root has mode 0700 and group root.",
        "The uid 64430, which infbox needs for its user infbox, belongs to the user stranger.",
        "/srv/shop has no config.json and no *.safetensors.",
        "stranger.service). Stop it.",
        "Port 8013 (two) is in use by caddy (pid",
        "Port 22 (three) is in use by sshd",
        "or change infbox's port with infbox_port.",
    ],
)
def test_each_thing_that_is_wrong_is_named_in_one_message(refusal: str, words: str) -> None:
    assert words in refusal


def test_what_is_right_is_not_named(refusal: str) -> None:
    assert "Port 8000" not in refusal
    assert "systemd" not in refusal


def test_one_bad_host_stops_the_run_for_all(tmp_path: Path) -> None:
    twin = {
        "name": "Add the host under a second name",
        "ansible.builtin.add_host": {
            "name": "twin",
            "groups": "twins",
            **{
                name: f"{{{{ hostvars['infbox-preflight'].{name} }}}}"
                for name in (
                    "ansible_host",
                    "ansible_user",
                    "ansible_private_key_file",
                    "ansible_ssh_common_args",
                )
            },
            "preflight_workspaces": [{"name": "gone", "path": "/srv/gone"}],
        },
    }
    reach = {"name": "Go on", "ansible.builtin.debug": {"msg": "this host goes on"}}
    status, said = run(
        tmp_path,
        [
            {"hosts": "infbox-preflight", "gather_facts": False, "tasks": [twin]},
            {"hosts": "all", "gather_facts": False, "roles": ["preflight"], "tasks": [reach]},
        ],
    )
    assert status != 0
    assert "twin was not changed" in said
    assert "infbox-preflight was not changed" not in said
    assert "this host goes on" not in said


PRESETS = yaml.safe_load((ROOT / "group_vars/all/presets.yml").read_text())["_infbox_presets"]
LOWERED = "/etc/infbox-test/lowered.json"
# As vLLM 0.32 writes it.
LINE = (
    "ValueError: To serve at least one request with the model's max seq len (16384), (0.19 GiB KV"
    " cache is needed, which is larger than the available KV cache memory (0.12 GiB). Based on the"
    " available memory, the estimated maximum model length is 10240. Try increasing"
)


def test_a_plan_is_lowered_by_the_engine_s_log_and_stays_so_until_it_is_for_another_one(
    host: Host, tmp_path: Path
) -> None:
    host.check_output("mkdir --parents /etc/infbox-test")
    given = {
        "preflight_presets": {"cpu": PRESETS["cpu"]},
        "preflight_lowered_file": LOWERED,
        "preflight_engine_log": ["anything", LINE],
    }
    show = {
        "name": "Print the plan",
        "ansible.builtin.debug": {
            "msg": "window {{ preflight_plan.max_model_len }} {{ preflight_preset_changes }}"
            " note {{ preflight_lowered_note }} end"
        },
    }
    lower = {
        "name": "Lower",
        "ansible.builtin.include_role": {"name": "preflight", "tasks_from": "lower"},
    }
    play = {"hosts": "all", "gather_facts": False, "roles": ["preflight"]}

    status, said = run(tmp_path, [{**play, "tasks": [show, lower, show]}], **given)
    assert status == 0, said
    assert "window 16384" in said
    assert "window 9920" in said
    kept = json.loads(host.file(LOWERED).content_string)
    assert kept["engine"]["max_model_len"] == 9920
    assert host.file(LOWERED).mode == 0o644

    status, said = run(tmp_path, [{**play, "tasks": [show, lower, show]}], **given)
    assert "window 16384" not in said
    assert "changed=0" in said
    assert f"remove {LOWERED} on the host and run site.yml" in said

    other = {**PRESETS["cpu"], "versions": {"vllm": "0.33.0", "lmcache": "0.5.6", "cuda": ""}}
    given = {**given, "preflight_presets": {"cpu": other}}
    status, said = run(tmp_path, [{**play, "tasks": [show]}], **given)
    assert "window 16384" in said
    assert "note end" in said
    host.check_output("rm --recursive /etc/infbox-test")


def test_nothing_was_written(host: Host) -> None:
    assert not host.file("/etc/infbox").exists
    assert not host.file("/var/lib/infbox").exists
