"""playbooks/gpu_check.yml on a host without a card; with stubs of cards a scenario runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia")


@pytest.mark.skipif(
    any(Path(place).exists() for place in DRIVERS), reason="this machine has a card"
)
def test_a_host_without_a_card_is_told_so_and_does_not_fail(tmp_path: Path) -> None:
    here = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    (tmp_path / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"one": here}}}))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "--inventory", tmp_path / "hosts.yml",
         ROOT / "playbooks" / "gpu_check.yml"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one: no NVIDIA card" in done.stdout
