"""litellm's proxy before infbox, asked by OpenAI's library as its users ask it."""

import json
import os
import runpy
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from report import MODEL

LONG = 300  # seconds: it imports most of what it could talk to
KEY = "sk-of-the-proxy"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def written() -> Path:
    """Write its configuration, which names the variables that are printed for `openai`."""
    own = {
        "model": f"openai/{MODEL}",
        "api_base": "os.environ/OPENAI_BASE_URL",
        "api_key": "os.environ/OPENAI_API_KEY",
    }
    said = {
        "model_list": [{"model_name": MODEL, "litellm_params": own}],
        "general_settings": {"master_key": KEY},
    }
    file = Path.home() / "litellm.yaml"
    file.write_text(json.dumps(said))  # which YAML includes
    return file


def wait_until_ready(address: str, proxy: subprocess.Popen[bytes]) -> None:
    """Wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline and proxy.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health/liveliness", timeout=5):  # noqa: S310  # ours
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the proxy does not answer: {log.read_text()[-600:]}")


log = Path.home() / "proxy.log"
port = free_port()
with log.open("wb") as out:
    started = subprocess.Popen(
        [str(Path(sys.executable).with_name("litellm")), "--config", written(),
         "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}, stdout=out,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
try:
    wait_until_ready(f"http://127.0.0.1:{port}", started)
    os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{port}/v1"
    os.environ["OPENAI_API_KEY"] = KEY
    runpy.run_path(str(Path(__file__).with_name("openai_python.py")))
finally:
    started.terminate()
    started.wait()
