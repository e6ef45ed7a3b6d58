"""litellm's proxy before infbox, asked by OpenAI's library as its users ask it."""

import json
import os
import runpy
import sys
from pathlib import Path

from own_server import free_port, running
from report import MODEL

KEY = "sk-of-the-proxy"


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


port = free_port()
address = f"http://127.0.0.1:{port}"
command: list[str | Path] = [
    Path(sys.executable).with_name("litellm"), "--config", written(), "--host", "127.0.0.1",
    "--port", str(port), "--telemetry", "False",
]  # fmt: skip
environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
with running(command, environment, f"{address}/health/liveliness"):
    os.environ |= {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": KEY}
    runpy.run_path(str(Path(__file__).with_name("openai_python.py")))
