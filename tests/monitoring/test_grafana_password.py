"""Grafana reads its password for Prometheus at its start alone, so another one starts it again."""

from pathlib import Path
from typing import Any

from tests.plugins import plugin_files
from tests.plugins.plugin_files import ROOT

ROLE = ROOT / "roles/monitoring"


def fragment(folder: Path, service: str, password_time: str) -> str:
    """Render a service's compose fragment where the password was changed at some time."""
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_vars": str(ROLE / f"{kind}/main.yml")}
        for kind in ("defaults", "vars")
    ]
    file = folder / "compose.yml"
    tell = {
        "content": "{{ lookup('ansible.builtin.template', source) }}",
        "dest": str(file),
        "mode": "0600",
    }
    variables = {
        "source": str(ROLE / "templates/compose.yml.j2"),
        "monitoring_service": service,
        "_monitoring_checksum": "the-same",
        "__monitoring_password_time": {"rc": 0, "stdout": password_time},
    }
    plugin_files.play(folder, [*tasks, {"ansible.builtin.copy": tell}], variables)
    return file.read_text()


def test_grafana_starts_again_when_its_password_for_prometheus_changes(tmp_path: Path) -> None:
    assert fragment(tmp_path, "grafana", "1") != fragment(tmp_path, "grafana", "2")
    assert fragment(tmp_path, "grafana", "2") == fragment(tmp_path, "grafana", "2")


def test_prometheus_which_reads_its_passwords_each_time_stays(tmp_path: Path) -> None:
    assert fragment(tmp_path, "prometheus", "1") == fragment(tmp_path, "prometheus", "2")
