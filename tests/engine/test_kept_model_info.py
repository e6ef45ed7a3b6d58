"""The CPU engine image knows what classes of models can do, so a start does not ask them."""

import subprocess
from pathlib import Path

import pytest

from lab.images import engine_image

PROGRAM = Path(__file__).with_name("ask_classes.py")


@pytest.mark.lab
def test_a_start_asks_no_class_of_a_model() -> None:
    """Where this fails, look at what `files/engine/keep_model_info.py` expects of vLLM."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python",
         "--env", "VLLM_NO_USAGE_STATS=1",
         "--volume", f"{PROGRAM}:/ask_classes.py:ro", engine_image(), "/ask_classes.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
