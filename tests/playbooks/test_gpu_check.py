"""playbooks/gpu_check.yml on a host without a GPU; with stubs of GPUs a scenario runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia")


@pytest.mark.skipif(any(Path(place).exists() for place in DRIVERS), reason="this machine has a GPU")
def test_a_host_without_a_gpu_is_told_so_and_does_not_fail(tmp_path: Path) -> None:
    done = check(tmp_path, "gpu_check_level=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one: no NVIDIA GPU" in done.stdout


def test_a_level_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path, "gpu_check_level=9")
    assert done.returncode == 2
    assert "gpu_check_level is 9. Set it to 0, 1, 2, 3 or 4." in " ".join(done.stdout.split())


def check(folder: Path, variable: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook against this machine, with a variable."""
    here = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    (folder / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"one": here}}}))
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "--inventory", folder / "hosts.yml",
         ROOT / "playbooks" / "gpu_check.yml", "--extra-vars", variable],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "true"},
    )  # fmt: skip
