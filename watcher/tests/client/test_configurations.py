"""`infbox-watch client NAME`: configurations of real clients, as a person gets them.

Whether the clients themselves take them is seen by hand, with the versions that docs/clients.md
names; here each is read by a parser of its format.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_ask import KEY, Server

from infbox import cli
from infbox.client.configurations import CLIENTS, PLACEHOLDER, Access, configuration
from infbox.errors import InputError
from serving import serving

tomllib = pytest.importorskip("tomllib")

URL = "https://gpu1.example.org"
ACCESS = Access(URL, "coder@shop", "coder", 40_000, "/srv/root.crt")
KEY_OF_SHELL = "by the variable"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs/clients.md"


def content(name: str, access: Access = ACCESS) -> Any:
    """What a client would read."""
    text = configuration(name, access).text
    if name == "codex":
        return tomllib.loads(text)
    if name in ("continue", "llm"):
        return yaml.safe_load(text)
    return json.loads(text)


def shell(name: str, access: Access = ACCESS, home: Path = Path("/nowhere")) -> dict[str, str]:
    """The variables that a shell has after what is printed."""
    script = configuration(name, access).text + "\nenv -0"
    given = {"INFBOX_API_KEY": KEY_OF_SHELL, "HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-eu", "-c", script], env=given, capture_output=True, text=True, check=True
    )
    return dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """What a person sees: the exit status, what goes into a file, and what is said beside it."""
    try:
        status = cli.watch(["client", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_claude_code_gets_its_variables() -> None:
    found = shell("claude-code")
    assert found["ANTHROPIC_BASE_URL"] == URL
    assert found["ANTHROPIC_AUTH_TOKEN"] == KEY_OF_SHELL
    assert found["ANTHROPIC_MODEL"] == "coder@shop"
    assert found["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "coder"
    assert found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert found["NODE_EXTRA_CA_CERTS"] == "/srv/root.crt"


@pytest.mark.parametrize(("window", "told"), [(47_999, None), (48_000, "48000")])
def test_claude_code_compacts_only_in_a_window_that_leaves_it_something(
    window: int, told: str | None
) -> None:
    found = shell("claude-code", replace(ACCESS, window=window))
    assert found.get("CLAUDE_CODE_MAX_CONTEXT_TOKENS") == told
    assert found.get("CLAUDE_CODE_AUTO_COMPACT_WINDOW") == told


def test_codex_gets_a_provider() -> None:
    found = content("codex")
    assert found["model"] == "coder@shop"
    assert found["model_context_window"] == 40_000
    provider = found["model_providers"][found["model_provider"]]
    assert provider["base_url"] == f"{URL}/v1"
    assert provider["env_key"] == "INFBOX_API_KEY"


def test_opencode_gets_a_provider_with_both_models() -> None:
    found = content("opencode")
    provider = found["provider"]["infbox"]
    assert found["model"] == "infbox/coder@shop"
    assert provider["options"]["apiKey"] == "{env:INFBOX_API_KEY}"
    assert {model["limit"]["context"] for model in provider["models"].values()} == {40_000}


def test_continue_gets_a_model_with_the_certificate() -> None:
    (model,) = content("continue")["models"]
    assert model["apiKey"] == "${{ secrets.INFBOX_API_KEY }}"
    assert model["requestOptions"]["caBundlePath"] == "/srv/root.crt"
    assert model["defaultCompletionOptions"] == {"contextLength": 40_000, "maxTokens": 8192}


def test_open_webui_gets_a_connection_and_a_model_for_titles() -> None:
    found = shell("open-webui")
    assert found["OPENAI_API_BASE_URL"] == f"{URL}/v1"
    assert found["OPENAI_API_KEY"] == KEY_OF_SHELL
    assert (found["DEFAULT_MODELS"], found["TASK_MODEL_EXTERNAL"]) == ("coder@shop", "coder")
    assert found["AIOHTTP_CLIENT_SSL_CERT_FILE"] == "/srv/root.crt"


def test_aider_gets_its_two_files(tmp_path: Path) -> None:
    shell("aider", home=tmp_path)
    settings = yaml.safe_load((tmp_path / ".config/infbox/aider.yml").read_text())
    figures = json.loads((tmp_path / ".config/infbox/aider.json").read_text())
    assert settings["openai-api-base"] == f"{URL}/v1"
    assert figures[settings["model"]]["max_input_tokens"] == 40_000
    assert settings["weak-model"] in figures


def test_the_others_name_server_model_and_window() -> None:
    (zed,) = content("zed")["language_models"]["openai_compatible"]["infbox"]["available_models"]
    assert (zed["name"], zed["max_tokens"]) == ("coder@shop", 40_000)
    roo = content("roo")["providerProfiles"]["apiConfigs"]["infbox"]
    assert (roo["openAiBaseUrl"], roo["openAiModelId"]) == (f"{URL}/v1", "coder@shop")
    assert roo["openAiApiKey"] == PLACEHOLDER
    ((vscode,),) = [provider["models"] for provider in content("vscode")]
    assert (vscode["id"], vscode["url"]) == ("coder@shop", f"{URL}/v1/chat/completions")
    assert vscode["maxInputTokens"] + vscode["maxOutputTokens"] == 40_000
    qwen = content("qwen-code")["model"]
    assert (qwen["name"], qwen["generationConfig"]["contextWindowSize"]) == ("coder@shop", 40_000)
    assert content("llm")[0]["model_id"] == "coder@shop"
    assert shell("openai")["OPENAI_BASE_URL"] == f"{URL}/v1"
    anthropic = shell("anthropic")
    assert (anthropic["ANTHROPIC_BASE_URL"], anthropic["ANTHROPIC_API_KEY"]) == (URL, KEY_OF_SHELL)
    assert anthropic["ANTHROPIC_MODEL"] == "coder@shop"
    assert f"--baseurl {URL}/v1" in configuration("cline", ACCESS).text


@pytest.mark.parametrize("name", CLIENTS)
def test_no_configuration_has_a_certificate_that_the_system_trusts_already(name: str) -> None:
    made = configuration(name, Access(URL, "coder@shop", "coder", 40_000))
    assert "CERT" not in made.text + "".join(made.environment)
    assert "caBundlePath" not in made.text


def test_only_agents_that_go_on_with_a_shorter_conversation_get_the_error_of_a_full_window() -> (
    None
):
    given = {name for name in CLIENTS if "X-Infbox-Pack" in configuration(name, ACCESS).text}
    assert given == {"opencode", "qwen-code"}


def test_a_small_window_leaves_most_of_it_to_the_conversation() -> None:
    assert Access(URL, "coder@shop", "coder", 8000).output == 2000
    assert Access(URL, "coder@shop", "coder", 1).output == 1


def test_the_window_is_asked_of_the_server_and_the_key_is_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("", "coder", "coder@shop")
    server.window = 12_345
    monkeypatch.setenv("INFBOX_API_KEY", KEY)
    with serving(server.app()) as url:
        for name in CLIENTS:
            status, text, said = printed(capsys, name, "--server", url)
            assert (status, KEY in text + said) == (0, False)
        status, text, said = printed(capsys, "opencode", "--server", url)
        assert '"context": 12345' in text
        assert "~/.config/opencode/opencode.json" in said
        assert "export INFBOX_API_KEY=" in said
        assert server.seen[-1]["authorization"] == f"Bearer {KEY}"
        for name in CLIENTS:
            status, text, said = printed(capsys, name, "--server", url, "--show-key")
            assert status == 0
            assert KEY in text + said or name == "llm"


def test_without_a_key_the_window_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--server", f"{URL}/v1/", "--workspace", "shop", "--window", "9000")
    status, text, _ = printed(capsys, "codex", *given)
    assert status == 0
    assert tomllib.loads(text)["model_context_window"] == 9000
    assert f'base_url = "{URL}/v1"' in text


def test_all_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "list")[1].split() == sorted(CLIENTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("emacs",), "there is no client emacs: give one of aider, anthropic,"),
        (("codex", "--server", "gpu1"), "--server is 'gpu1': give an address such as"),
        (("codex", "--server", "https://a b"), "give an address such as"),
        (("codex", "--server", "https://x/$(id)"), "give an address such as"),
        (("codex", "--workspace", "a b"), "is not a model name: give --model and --workspace"),
        (("codex", "--workspace", '"'), "is not a model name"),
        (("codex", "--model", "a;b"), "is not a model name"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    status, text, said = printed(capsys, *arguments, "--window", "9000")
    assert (status, text) == (2, "")
    assert words in said


def test_without_key_and_window_it_says_which_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFBOX_API_KEY", raising=False)
    status, _, said = printed(capsys, "codex", "--server", URL)
    assert status == 2
    assert "set INFBOX_API_KEY, or give a file to --key-file" in said
    assert "--window" in said


def test_a_server_that_does_not_tell_its_window_is_said_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFBOX_API_KEY", KEY)
    with serving(Server("", "coder").app()) as url:
        status, _, said = printed(capsys, "codex", "--server", url)
    assert status == 2
    assert "does not tell the window of coder: give --window TOKENS" in said


def test_an_unknown_client_is_refused_by_the_function_too() -> None:
    with pytest.raises(InputError, match="there is no client vi: give one of"):
        configuration("vi", ACCESS)


def test_the_page_has_every_client_with_what_was_seen() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(CLIENTS)
