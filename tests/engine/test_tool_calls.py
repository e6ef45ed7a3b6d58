"""Every preset's parser reads the tool calls that its model writes, or the preset says it has none.

By vLLM's own parsers, in the lab's engine image. What models write is as their publishers and users
show it: Qwen3-Coder's and GLM-4.5's chat templates, and for Qwen2.5-Coder vLLM issue 32926 and pull
request 33083.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.images import engine_image
from tests.plugins.plugin_files import ROOT

PROGRAM = Path(__file__).with_name("read_tool_calls.py")
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "group_vars/all/presets.yml").read_text(encoding="utf-8")
)["_infbox_presets"]
CALLS = [
    {"name": "read_file", "arguments": {"path": "src/main.py", "lines": 40}},
    {"name": "list_files", "arguments": {"path": "tests"}},
]
QWEN3 = """I look at both.

<tool_call>
<function=read_file>
<parameter=path>
src/main.py
</parameter>
<parameter=lines>
40
</parameter>
</function>
</tool_call>
<tool_call>
<function=list_files>
<parameter=path>
tests
</parameter>
</function>
</tool_call>"""
GLM = """I look at both.
<tool_call>read_file
<arg_key>path</arg_key>
<arg_value>src/main.py</arg_value>
<arg_key>lines</arg_key>
<arg_value>40</arg_value>
</tool_call>
<tool_call>list_files
<arg_key>path</arg_key>
<arg_value>tests</arg_value>
</tool_call>"""
JSON = '{"name": "read_file", "arguments": {"path": "src/main.py"}}'
QWEN25 = {
    "in a fence": f"I read it.\n\n```json\n{JSON}\n```",
    "in tools": f"<tools>\n{JSON}\n</tools>",
    "bare": JSON,
}
# What the model of a family writes, by the names that repositories begin with.
WRITTEN = {
    "Qwen/Qwen3-Coder": {"two calls": QWEN3},
    "QuantTrio/Qwen3-Coder": {"two calls": QWEN3},
    "zai-org/GLM-4.5": {"two calls": GLM},
    "Qwen/Qwen2.5-Coder": QWEN25,
}


def models() -> dict[str, dict[str, Any]]:
    """Return each model of each preset, its smaller forms' with it, and the preset's engine."""
    found = {}
    for name, preset in PRESETS.items():
        for form in ({}, *preset.get("smaller", [])):
            repository = {**preset["model"], **form.get("model", {})}["repository"]
            found[f"{name}: {repository}"] = {
                "engine": {**preset["engine"], **form.get("engine", {})},
                "repository": repository,
            }
    return found


def written(repository: str) -> dict[str, str]:
    """Return what a model writes for tool calls; nothing for a family without a sample."""
    return next((texts for family, texts in WRITTEN.items() if repository.startswith(family)), {})


@pytest.fixture(scope="module")
def read() -> dict[str, dict[str, Any]]:
    """Return what is read in every case, all in one container."""
    cases = {
        f"{name}, {case}": {"parser": model["engine"]["tool_call_parser"], "text": text}
        for name, model in models().items()
        for case, text in written(model["repository"]).items()
    }
    cases["hermes"] = {"parser": "hermes", "text": f"<tool_call>\n{JSON}\n</tool_call>"}
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--interactive", "--entrypoint", "python",
         "--volume", f"{PROGRAM}:/read_tool_calls.py:ro", engine_image(), "/read_tool_calls.py"],
        input=json.dumps(cases), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_sample_is_that_of_a_presets_model() -> None:
    repositories = [model["repository"] for model in models().values()]
    for family in WRITTEN:
        assert any(repository.startswith(family) for repository in repositories), family


@pytest.mark.lab
@pytest.mark.parametrize("name", models())
def test_a_presets_parser_reads_its_models_tool_calls_or_it_says_that_it_has_none(
    read: dict[str, dict[str, Any]], name: str
) -> None:
    model = models()[name]
    texts = written(model["repository"])
    if not texts:
        pytest.skip(f"WRITTEN has no sample of the tool calls of {model['repository']}")
    for case in texts:
        found = read[f"{name}, {case}"]
        if model["engine"].get("tool_calls", True):
            assert found["calls"] == CALLS, case
            assert found["content"].strip() == "I look at both."
        else:
            assert found["calls"] == [], case


@pytest.mark.lab
def test_hermes_reads_the_form_that_qwen25_coder_does_not_write(
    read: dict[str, dict[str, Any]],
) -> None:
    assert read["hermes"]["calls"] == [{"name": "read_file", "arguments": {"path": "src/main.py"}}]
