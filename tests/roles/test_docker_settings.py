"""What the role docker writes to the Engine's daemon.json, beside what a host has there."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.plugins import plugin_files
from tests.plugins.plugin_files import ROOT


def settings(folder: Path, before: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return the settings that the role renders over those of a host."""
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_vars": str(ROOT / f"roles/docker/{kind}/main.yml")}
        for kind in ("defaults", "vars")
    ]
    file = folder / "daemon.json"
    tell = {"content": "{{ _docker_daemon | to_json }}", "dest": str(file), "mode": "0600"}
    content = base64.b64encode(json.dumps(before).encode()).decode()
    given = {**variables, "__docker_daemon_file": {"content": content}}
    plugin_files.play(
        folder, [*tasks, {"ansible.builtin.copy": tell}], {}, "--extra-vars", json.dumps(given)
    )
    rendered: dict[str, Any] = json.loads(file.read_text())
    return rendered


def test_a_feature_that_the_host_has_switched_on_stays_on_beside_cdi(tmp_path: Path) -> None:
    runtimes = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    before = {"features": {"containerd-snapshotter": True}, "runtimes": runtimes}
    rendered = settings(tmp_path, before, docker_daemon_options={"features": {"cdi": True}})
    assert rendered["features"] == {"containerd-snapshotter": True, "cdi": True}
    assert rendered["runtimes"] == runtimes
