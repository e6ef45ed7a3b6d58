"""Open WebUI before infbox, asked by OpenAI's library at the address that its own page asks."""

import json
import os
import runpy
import sys
import urllib.request
from pathlib import Path

from own_server import free_port, running


def signed_in(address: str) -> str:
    """Return the key of its only user, who needs no password."""
    request = urllib.request.Request(  # noqa: S310  # ours
        f"{address}/api/v1/auths/signin", json.dumps({"email": "", "password": ""}).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(json.load(answer)["token"])


port = free_port()
address = f"http://127.0.0.1:{port}"
command: list[str | Path] = [
    Path(sys.executable).with_name("open-webui"), "serve", "--host", "127.0.0.1",
    "--port", str(port),
]  # fmt: skip
environment = {
    **os.environ,
    "DATA_DIR": str(Path.home() / "open-webui"),
    "WEBUI_AUTH": "False",
    # It would look for a model of its own, to search in documents that are uploaded.
    "OFFLINE_MODE": "True",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ANONYMIZED_TELEMETRY": "False",
}
with running(command, environment, f"{address}/health"):
    os.environ |= {"OPENAI_BASE_URL": f"{address}/api", "OPENAI_API_KEY": signed_in(address)}
    runpy.run_path(str(Path(__file__).with_name("openai_python.py")))
