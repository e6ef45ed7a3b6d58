"""Shapes of chat templates, the project's own, and how vLLM renders them.

| shape | takes after which |
| --- | --- |
| inline | Qwen2.5-Coder and Qwen3-Coder: system messages where they stand, developers' left out |
| guarded | Qwen3.5 and later: a system message anywhere but first is refused, other roles too |
| thinking | the same, and what the model thought is left out before the last question |
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

_CALLS = """\
{%- for call in message.tool_calls or [] %}
<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>
{%- endfor %}"""

_HEAD = """\
{%- if messages[0].role == 'system' or tools %}
<|system|>
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- for tool in tools or [] %}

{{ tool | tojson }}
{%- endfor %}<|end|>
{%- endif %}"""

_TAIL = "{%- if add_generation_prompt %}<|assistant|>{% endif %}"

INLINE = f"""{_HEAD}
{{%- for message in messages %}}
{{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}}
<|{{{{ message.role }}}}|>{{{{ message.content }}}}<|end|>
{{%- elif message.role == 'assistant' %}}
<|assistant|>{{{{ message.content or '' }}}}{_CALLS}<|end|>
{{%- elif message.role == 'tool' %}}
<|user|><result>{{{{ message.content }}}}</result><|end|>
{{%- endif %}}
{{%- endfor %}}
{_TAIL}"""

GUARDED = f"""{_HEAD}
{{%- for message in messages %}}
{{%- if message.role == 'system' %}}
{{%- if not loop.first %}}{{{{ raise_exception('System first, please.') }}}}{{% endif %}}
{{%- elif message.role == 'user' %}}
<|user|>{{{{ message.content }}}}<|end|>
{{%- elif message.role == 'assistant' %}}
<|assistant|>{{{{ message.content or '' }}}}{_CALLS}<|end|>
{{%- elif message.role == 'tool' %}}
<|user|><result>{{{{ message.content }}}}</result><|end|>
{{%- else %}}{{{{ raise_exception('Unexpected role.') }}}}
{{%- endif %}}
{{%- endfor %}}
{_TAIL}"""

THINKING = GUARDED.replace(
    "<|assistant|>{{ message.content or '' }}",
    "<|assistant|>"
    "{% if loop.index0 > last.question and message.reasoning_content %}"
    "<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content or '' }}",
).replace(
    _HEAD,
    "{%- set last = namespace(question=0) %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{%- set last.question = loop.index0 %}{%- endif %}"
    "{%- endfor %}" + _HEAD,
)

LAST_QUESTION_ONLY = f"{_HEAD}<|user|>{{{{ messages[-1].content }}}}<|end|>{_TAIL}"

COUNTS_TURNS = INLINE.replace(
    "{%- for message in messages %}",
    "<|user|>This has {{ messages | length }} messages.<|end|>{%- for message in messages %}",
    1,
)

WITHOUT_MARKUP = INLINE.replace(
    "<|{{ message.role }}|>{{ message.content }}",
    "<|{{ message.role }}|>{{ message.content.rpartition('\\n')[2] }}",
)


class RefusedError(Exception):
    """What a template refuses."""


def _refuse(message: str) -> None:
    raise RefusedError(message)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )


def render(
    template: str,
    messages: list[dict[str, Any]],
    tools: list[Any] | None = None,
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt.

    Raises:
        RefusedError: the template refuses the messages.
    """
    environment = _environment()
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template).render(
        messages=messages, tools=tools, add_generation_prompt=add_generation_prompt
    )


def merges(template: str) -> bool:
    """Whether vLLM merges later system messages on Anthropic's API: it tries without any function
    that a template may call, so that whatever refuses them, or calls one, counts."""
    messages = [{"role": role, "content": "t"} for role in ("system", "user") * 2]
    try:
        _environment().from_string(template).render(messages=messages, add_generation_prompt=False)
    except jinja2.TemplateError:
        return True
    return False
