"""Ready configurations of coding agents and editors: ``infbox-watch client NAME``.

docs/clients.md says which versions they were tried with, and what each does with the window.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from infbox.client.ask import KEY_VARIABLE
from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLACEHOLDER = "YOUR-API-KEY"
"""In files of clients that read no key from the environment."""

_MOST_OUTPUT = 8192
# Of Claude Code 2.1.197: with a window of 31,890 tokens it refuses its first prompt, with 40,000 it
# compacts that before it sends anything.
_CLAUDE_CODE_COMPACTS = 48_000
# For agents that shorten their own conversation when they get the error of a full window, and go
# on: without it the gateway shortens the pack before they see any error.
_WHOLE = {"X-Infbox-Pack": "whole"}


@dataclass(frozen=True)
class Access:
    """What every client needs.

    Attributes:
        url: of the server, without ``/v1``.
        model: that is asked, with the workspace.
        plain: the same model without a workspace, for titles and summaries.
        window: tokens of conversation and answer that the model takes beside the pack.
        authority: file with the certificate that the server's is signed by; empty for those that
            the system trusts.
        key: the API key, where it is to be in what is printed; empty for the environment's.
    """

    url: str
    model: str
    plain: str
    window: int
    authority: str = ""
    key: str = field(default="", repr=False)

    @property
    def output(self) -> int:
        """Tokens that an answer has at most: a quarter of the window, and no more than needed."""
        return max(min(_MOST_OUTPUT, self.window // 4), 1)

    @property
    def key_word(self) -> str:
        """The key as a word of a shell: the environment's variable, unless it is to be shown."""
        return shlex.quote(self.key) if self.key else f'"${KEY_VARIABLE}"'

    @property
    def shown_key(self) -> str:
        """The key for a client that reads none from the environment."""
        return self.key or PLACEHOLDER


@dataclass(frozen=True)
class Configuration:
    """What configures a client.

    Attributes:
        place: the file that the text belongs into, or what to do with it, for people.
        text: the content of that file, or commands of a shell.
        environment: variables that the client needs beside it; values are shell words.
        notes: what else there is to do, as sentences.
    """

    place: str
    text: str
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def configuration(name: str, access: Access) -> Configuration:
    """Return the configuration of a client.

    Args:
        name: of the client.
        access: what to fill in.

    Raises:
        InputError: there is no such client.
    """
    check_client(name)
    return CLIENTS[name](access)


def check_client(name: str) -> None:
    """Verify that there is a client of this name.

    Raises:
        InputError: there is none.
    """
    if name not in CLIENTS:
        raise InputError(f"there is no client {name}: give one of {', '.join(sorted(CLIENTS))}")


def instructions(made: Configuration) -> str:
    """Return what to do with a configuration, for people."""
    lines = [f"# {made.place}", *(f"# {note}" for note in made.notes)]
    if made.environment:
        lines.append("# Before you start it:")
        lines += _exports(made.environment).splitlines()
    return "\n".join(lines)


def _claude_code_window(window: int) -> dict[str, str]:
    """Return the variables by which Claude Code compacts; none where nothing could be compacted.

    Beside its own prompt, an answer and what it keeps free, a small window has no space left: it
    would say itself that the prompt is too long, though the server takes it.
    """
    if window < _CLAUDE_CODE_COMPACTS:
        return {}
    # It compacts by the second one, which counts for a small window only beside the first.
    return {
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(window),
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(window),
    }


def _claude_code(access: Access) -> Configuration:
    model = shlex.quote(access.model)
    variables = {
        "ANTHROPIC_BASE_URL": shlex.quote(access.url),
        "ANTHROPIC_AUTH_TOKEN": access.key_word,
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        # It names sessions and the like by this one: without a pack that is done at once.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": shlex.quote(access.plain),
        **_claude_code_window(access.window),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(access.output),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        **_node_authority(access),
    }
    return Configuration(
        "For the shell that starts claude.",
        _exports(variables),
        notes=("Unset ANTHROPIC_API_KEY: claude would send that as well.",),
    )


def _codex(access: Access) -> Configuration:
    text = f"""\
model = {_toml(access.model)}
model_provider = "infbox"
model_context_window = {access.window}
web_search = "disabled"

[model_providers.infbox]
name = "infbox"
base_url = {_toml(f"{access.url}/v1")}
env_key = "{KEY_VARIABLE}"
wire_api = "responses"
"""
    environment = {**_key_variable(access), **_authority("SSL_CERT_FILE", access)}
    return Configuration("For ~/.codex/config.toml.", text, environment)


def _opencode(access: Access) -> Configuration:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "infbox",
        "options": {
            "baseURL": f"{access.url}/v1",
            "apiKey": f"{{env:{KEY_VARIABLE}}}",
            "headers": _WHOLE,
        },
        "models": {
            name: {
                "name": name,
                "tool_call": True,
                "limit": {"context": access.window, "output": access.output},
            }
            for name in dict.fromkeys((access.model, access.plain))
        },
    }
    content = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"infbox": provider},
        "model": f"infbox/{access.model}",
        "small_model": f"infbox/{access.plain}",
        "share": "disabled",
    }
    return Configuration(
        "For ~/.config/opencode/opencode.json, or opencode.json in the project.",
        _json(content),
        {**_key_variable(access), **_node_authority(access)},
    )


def _continue(access: Access) -> Configuration:
    options: dict[str, Any] = {"caBundlePath": access.authority} if access.authority else {}
    model = {
        "name": access.model,
        "provider": "openai",
        "model": access.model,
        "apiBase": f"{access.url}/v1",
        "apiKey": f"${{{{ secrets.{KEY_VARIABLE} }}}}",
        "roles": ["chat", "edit", "apply"],
        "capabilities": ["tool_use"],
        **({"requestOptions": options} if options else {}),
        "defaultCompletionOptions": {
            "contextLength": access.window,
            "maxTokens": access.output,
        },
    }
    content = {"name": "infbox", "version": "1.0.0", "schema": "v1", "models": [model]}
    return Configuration(
        "For ~/.continue/config.yaml.",
        yaml.safe_dump(content, sort_keys=False),
        {**_key_variable(access), **_node_authority(access)},
        (f"The editor's extension reads {KEY_VARIABLE} from the file ~/.continue/.env.",),
    )


def _cline(access: Access) -> Configuration:
    command = ["cline", "auth", "--provider", "openai", "--modelid", access.model]
    words = (
        f"{shlex.join([*command, '--baseurl', f'{access.url}/v1'])} --apikey {access.key_word}\n"
    )
    return Configuration(
        "Run this for Cline's command line.",
        words,
        _node_authority(access),
        (
            "In the editor choose the provider OpenAI Compatible, with the same base URL, key and"
            f" model, context window {access.window}, max output tokens {access.output}.",
        ),
    )


def _roo(access: Access) -> Configuration:
    profile = {
        "id": "infbox",
        "apiProvider": "openai",
        "openAiBaseUrl": f"{access.url}/v1",
        "openAiApiKey": access.shown_key,
        "openAiModelId": access.model,
        "openAiHeaders": {},
        "openAiStreamingEnabled": True,
        "includeMaxTokens": True,
        "openAiCustomModelInfo": {
            "contextWindow": access.window,
            "maxTokens": access.output,
            "supportsImages": False,
            "supportsPromptCache": True,
        },
    }
    profiles = {"currentApiConfigName": "infbox", "apiConfigs": {"infbox": profile}}
    return Configuration(
        "A file to be imported in Roo Code's settings, About, Import.",
        _json({"providerProfiles": profiles, "globalSettings": {}}),
        _node_authority(access),
        () if access.key else (f"Replace {PLACEHOLDER} by your key, and remove the file then.",),
    )


def _vscode(access: Access) -> Configuration:
    model = {
        "id": access.model,
        "name": access.model,
        "url": f"{access.url}/v1/chat/completions",
        "toolCalling": True,
        "vision": False,
        # It takes the sum of both for the window.
        "maxInputTokens": access.window - access.output,
        "maxOutputTokens": access.output,
    }
    provider = {
        "name": "infbox",
        "vendor": "customendpoint",
        "apiKey": access.shown_key,
        "apiType": "chat-completions",
        "models": [model],
    }
    return Configuration(
        "For chatLanguageModels.json of VS Code: Manage Models, Add Models, Custom Endpoint.",
        _json([provider]),
        _node_authority(access),
        () if access.key else (f"Replace {PLACEHOLDER} by your key.",),
    )


def _zed(access: Access) -> Configuration:
    model = {
        "name": access.model,
        "display_name": access.model,
        "max_tokens": access.window,
        "max_output_tokens": access.output,
        "capabilities": {
            "tools": True,
            "images": False,
            "parallel_tool_calls": True,
            "prompt_cache_key": False,
        },
    }
    provider = {"api_url": f"{access.url}/v1", "available_models": [model]}
    content = {
        "language_models": {"openai_compatible": {"infbox": provider}},
        "agent": {"default_model": {"provider": "infbox", "model": access.model}},
    }
    return Configuration(
        "For Zed's settings.json, beside what is there.",
        _json(content),
        _key_variable(access),
        _system_authority(access),
    )


def _aider(access: Access) -> Configuration:
    model = f"openai/{access.model}"
    settings = {
        "model": model,
        "weak-model": f"openai/{access.plain}",
        "edit-format": "diff",
        "openai-api-base": f"{access.url}/v1",
        "analytics-disable": True,
        "model-metadata-file": "~/.config/infbox/aider.json",
    }
    figures = {
        "max_input_tokens": access.window,
        "max_output_tokens": access.output,
        "max_tokens": access.output,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    files = {
        "aider.yml": yaml.safe_dump(settings, sort_keys=False),
        "aider.json": _json({f"openai/{name}": figures for name in (access.model, access.plain)}),
    }
    text = "mkdir -p ~/.config/infbox\n" + "".join(
        f"cat > ~/.config/infbox/{name} <<'END'\n{content}END\n" for name, content in files.items()
    )
    return Configuration(
        "Run this once. Then: aider --config ~/.config/infbox/aider.yml",
        text,
        {"OPENAI_API_KEY": access.key_word, **_authority("SSL_CERT_FILE", access)},
    )


def _qwen_code(access: Access) -> Configuration:
    content = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {
            "name": access.model,
            "generationConfig": {
                "contextWindowSize": access.window,
                "customHeaders": _WHOLE,
                "samplingParams": {"max_tokens": access.output},
            },
        },
        "privacy": {"usageStatisticsEnabled": False},
    }
    environment = {
        "OPENAI_API_KEY": access.key_word,
        "OPENAI_BASE_URL": shlex.quote(f"{access.url}/v1"),
        "OPENAI_MODEL": shlex.quote(access.model),
        **_node_authority(access),
    }
    return Configuration("For ~/.qwen/settings.json.", _json(content), environment)


def _llm(access: Access) -> Configuration:
    model = {
        "model_id": access.model,
        "model_name": access.model,
        "api_base": f"{access.url}/v1",
        "api_key_name": "infbox",
        "supports_tools": True,
    }
    return Configuration(
        'For extra-openai-models.yaml in the directory of "llm logs path".',
        yaml.safe_dump([model], sort_keys=False),
        _authority("SSL_CERT_FILE", access),
        (f"Then: llm keys set infbox, and llm -m {access.model} with your question.",),
    )


def _openai(access: Access) -> Configuration:
    variables = {
        "OPENAI_BASE_URL": shlex.quote(f"{access.url}/v1"),
        "OPENAI_API_KEY": access.key_word,
        "OPENAI_MODEL": shlex.quote(access.model),
        **_authority("SSL_CERT_FILE", access),
        **_node_authority(access),
    }
    return Configuration(
        "For any client of OpenAI's API: base URL, key and model, here as variables.",
        _exports(variables),
        notes=(
            f"Context window {access.window} tokens, at most {access.output} of them output.",
            "An editor that sends requests from its vendor's servers, as Cursor does, needs a"
            " server that these reach, with a certificate that they trust.",
        ),
    )


def _anthropic(access: Access) -> Configuration:
    variables = {
        "ANTHROPIC_BASE_URL": shlex.quote(access.url),
        "ANTHROPIC_API_KEY": access.key_word,
        "ANTHROPIC_MODEL": shlex.quote(access.model),
        **_authority("SSL_CERT_FILE", access),
        **_node_authority(access),
    }
    return Configuration(
        "For any client of Anthropic's API: base URL, key and model, here as variables.",
        _exports(variables),
        notes=(f"Context window {access.window} tokens, at most {access.output} of them output.",),
    )


def _open_webui(access: Access) -> Configuration:
    variables = {
        "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": shlex.quote(f"{access.url}/v1"),
        "OPENAI_API_KEY": access.key_word,
        "DEFAULT_MODELS": shlex.quote(access.model),
        # It writes titles, tags and further questions by this one: without a pack that is short.
        "TASK_MODEL_EXTERNAL": shlex.quote(access.plain),
        **_authority("AIOHTTP_CLIENT_SSL_CERT_FILE", access),
    }
    return Configuration(
        "For the shell that starts open-webui serve, or as -e options of its container.",
        _exports(variables),
        notes=(
            "They count when it starts for the first time. Afterwards set the connection, the"
            " default model and the task model in Admin Settings.",
        ),
    )


def _key_variable(access: Access) -> dict[str, str]:
    """Return the variable that a client reads the key from: only where it is to be printed."""
    return {KEY_VARIABLE: shlex.quote(access.key) if access.key else PLACEHOLDER}


def _authority(variable: str, access: Access) -> dict[str, str]:
    return {variable: shlex.quote(access.authority)} if access.authority else {}


def _node_authority(access: Access) -> dict[str, str]:
    return _authority("NODE_EXTRA_CA_CERTS", access)


def _system_authority(access: Access) -> tuple[str, ...]:
    if not access.authority:
        return ()
    return (f"Add {access.authority} to the certificates that the system trusts.",)


def _exports(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={value}\n" for name, value in variables.items())


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def _toml(text: str) -> str:
    """Return a string of TOML; of such names and addresses JSON's form is the same."""
    return json.dumps(text)


CLIENTS: Mapping[str, Callable[[Access], Configuration]] = {
    "aider": _aider,
    "anthropic": _anthropic,
    "claude-code": _claude_code,
    "cline": _cline,
    "codex": _codex,
    "continue": _continue,
    "llm": _llm,
    "openai": _openai,
    "open-webui": _open_webui,
    "opencode": _opencode,
    "qwen-code": _qwen_code,
    "roo": _roo,
    "vscode": _vscode,
    "zed": _zed,
}
