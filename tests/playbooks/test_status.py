"""playbooks/status.yml with a real gateway on this machine, and a host that cannot be reached."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_host import FakeHost

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("status")
    with FakeHost(folder).running() as host, host.gateway() as gateway:
        here = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "watcher_gateway_listen": gateway.url.removeprefix("http://"),
            "infbox_oidc_issuer": "https://login.example",
            "infbox_workspaces": [{"name": "shop", "git": {"url": "https://forge.example/s.git"}}],
        }
        away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": False}
        hosts = {"inference": {"hosts": {"one": here, "two": away}}}
        (folder / "hosts.yml").write_text(json.dumps(hosts))
        yield subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "--inventory", folder / "hosts.yml",
             ROOT / "playbooks" / "status.yml", "-e", "infbox_status_output=status.json"],
            capture_output=True, text=True, check=False, cwd=folder,
        )  # fmt: skip


def test_every_host_is_told_of_and_one_that_is_away_by_name(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert "one: UNHEALTHY" in done.stdout, done.stdout + done.stderr
    assert "model        coder, dev32, vLLM 0.0.fake, 100,000 tokens" in done.stdout
    assert "The host cannot be reached." in done.stdout
    assert "Unhealthy: one, two." in done.stdout
    assert done.returncode != 0


def test_scripts_read_it_as_json(
    done: subprocess.CompletedProcess[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert done.returncode
    file = next(tmp_path_factory.getbasetemp().glob("status*/status.json"))
    told = json.loads(file.read_text())
    assert told["healthy"] is False
    assert told["hosts"]["one"]["status"]["served"]["preset"] == "dev32"
    assert told["hosts"]["two"]["problems"] == ["The host cannot be reached."]
    names = ["keys", "watcher", "gateway", "signin", "remotes", "autoheal"]
    assert set(told["hosts"]["one"]["units"]) == {f"infbox-{name}" for name in names}
