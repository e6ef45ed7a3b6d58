"""What the role docker writes to the Engine's daemon.json, beside what a host has there."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.plugins.plugin_files import ROOT


def settings(folder: Path, before: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return the settings that the role renders over those of a host."""
    files = [str(ROOT / f"roles/docker/{kind}/main.yml") for kind in ("defaults", "vars")]
    play = [{
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": files,
        "tasks": [{
            "name": "Keep the settings",
            "ansible.builtin.copy": {
                "content": "{{ _docker_daemon | to_json }}",
                "dest": str(folder / "daemon.json"),
                "mode": "0600",
            },
        }],
    }]  # fmt: skip
    (folder / "play.yml").write_text(json.dumps(play))
    content = base64.b64encode(json.dumps(before).encode()).decode()
    given = {**variables, "__docker_daemon_file": {"content": content}}
    done = subprocess.run(
        ["ansible-playbook", "--inventory", "localhost,", "--connection", "local",
         "--extra-vars", json.dumps(given), str(folder / "play.yml")],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
             "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rendered = json.loads((folder / "daemon.json").read_text())
    assert isinstance(rendered, dict)
    return rendered


def test_a_feature_that_the_host_has_switched_on_stays_on_beside_cdi(tmp_path: Path) -> None:
    runtimes = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    before = {"features": {"containerd-snapshotter": True}, "runtimes": runtimes}
    rendered = settings(tmp_path, before, docker_daemon_options={"features": {"cdi": True}})
    assert rendered["features"] == {"containerd-snapshotter": True, "cdi": True}
    assert rendered["runtimes"] == runtimes
