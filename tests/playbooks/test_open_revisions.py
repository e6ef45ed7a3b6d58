"""Which commit hosts hold to whose preset names none, seen by Ansible with a stub of the hub."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT, load, load_file

stub_hub = load_file(ROOT / "molecule/model_store/stub_hub.py")
filters = load("filter", "model_commits")

MODEL = "stub/model"
TOKEN = "the-token"  # noqa: S105
HELD, MOVED = "a" * 40, "b" * 40

Find = Callable[..., tuple[dict[str, str], str]]


@pytest.fixture
def hub(tmp_path: Path) -> Generator[Any]:
    (tmp_path / "hub" / MODEL).mkdir(parents=True)
    server = stub_hub.StubHub(0, tmp_path / "hub", TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def find(hub: Any, tmp_path: Path) -> Find:
    """Runs what preflight does on hosts `one` and `two`, which need the same model.

    Returns the commit by host, of those that found one, and all that was to be seen.
    """

    def run(records: dict[str, str], *options: str, **given: Any) -> tuple[dict[str, str], str]:
        hosts: dict[str, Any] = {}
        for name in ("one", "two"):
            file = tmp_path / f"{name}.json"
            file.unlink(missing_ok=True)
            if records.get(name):
                text = records[name]
                file.write_text(
                    filters.with_commit({}, MODEL, text, "then") if len(text) == 40 else text
                )
            hosts[name] = {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                # A task that is delegated has the other host's.
                "model_store_commits_file": str(tmp_path / "{{ item | default('') }}.json"),
                "model_store_peer_hosts": ["one", "two"],
                "model_store_repository": MODEL,
                "model_store_revision": "",
                "model_store_from": "hub",
                "model_store_endpoint": hub.address,
                "model_store_token": TOKEN,
                **given,
            }
        (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
        play = {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {"name": "Find", "ansible.builtin.include_role":
                    {"name": "model_store", "tasks_from": "revision"}},
                {"name": "Tell", "ansible.builtin.debug": {"msg": "{{ inventory_hostname }} has"
                    " {{ model_store_commits['stub/model'] }}."}},
            ],
        }  # fmt: skip
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", tmp_path / "play.yml",
             "--inventory", tmp_path / "hosts.yml", "-vvv", *options],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_PROXY": "127.0.0.1",
                 "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        seen = " ".join(done.stdout.split())
        assert TOKEN not in seen
        told = (word.partition(" has ") for word in seen.split("msg: ")[1:])
        return {host: rest[:40] for host, has, rest in told if has and host in hosts}, seen

    return run


def move(hub: Any, commit: str) -> None:
    (hub.folder / "latest").write_text(commit)


def test_the_hub_is_asked_once_for_hosts_that_need_the_same_model(find: Find, hub: Any) -> None:
    move(hub, HELD)
    found, seen = find({})
    assert found == {"one": HELD, "two": HELD}
    assert f"names no commit of {MODEL}: from now on this host holds to {HELD}." in seen
    assert len(hub.requests) == 1


def test_what_is_recorded_is_held_to_without_asking_also_for_a_new_host(
    find: Find, hub: Any
) -> None:
    move(hub, MOVED)
    found, _ = find({"two": HELD})
    assert found == {"one": HELD, "two": HELD}
    assert hub.requests == []


def test_an_update_moves_all_hosts_of_the_run_to_the_hubs_latest(find: Find, hub: Any) -> None:
    move(hub, MOVED)
    found, seen = find({"one": HELD, "two": HELD}, model_store_update=True)
    assert found == {"one": MOVED, "two": MOVED}
    assert f"holds to {MOVED}, before it was {HELD}." in seen
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("records", "given", "words"),
    [
        ({"one": MOVED, "two": HELD}, {}, f"two holds {HELD}; they have to hold the same. Run for"),
        (
            {"one": HELD, "two": HELD},
            {"limit": "one", "model_store_update": True},
            f"one would hold {MODEL} at {MOVED}, and two holds {HELD}",
        ),
        ({"one": "["}, {}, "is no record of commits. Remove it"),
        ({}, {"model_store_endpoint": "http://127.0.0.1:9"}, "does not tell the commit of"),
        ({}, {"model_store_upload": "/no/such/folder"}, "or set model.revision of the preset."),
    ],
)
def test_what_cannot_be_held_to_is_refused_with_the_fix(
    find: Find, hub: Any, records: dict[str, str], given: dict[str, Any], words: str
) -> None:
    move(hub, MOVED)
    limit = ["--limit", given.pop("limit")] if "limit" in given else []
    found, seen = find(records, *limit, **given)
    assert words in seen
    assert "one" not in found
    assert "Traceback" not in seen
