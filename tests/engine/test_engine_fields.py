"""The record of the fields that vLLM takes, by which the gateway decides, is that of the engine."""

import json
import subprocess
from pathlib import Path

import pytest

from lab.images import engine_image
from tests.plugins.plugin_files import ROOT

PROGRAM = Path(__file__).with_name("request_fields.py")
RECORD = ROOT / "watcher/tests/engine_fields.json"


@pytest.mark.lab
def test_the_record_is_what_the_engine_takes() -> None:
    """Where this fails, vLLM is another: write the record anew, and decide on each new field."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python",
         "--env", "VLLM_NO_USAGE_STATS=1", "--volume", f"{PROGRAM}:/request_fields.py:ro",
         engine_image(), "/request_fields.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(RECORD.read_text())
