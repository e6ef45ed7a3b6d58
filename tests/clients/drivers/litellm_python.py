"""litellm, the library, by OpenAI's variables."""

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from report import (
    CALL_TOKENS,
    EXTRA,
    MODEL,
    QUESTION,
    RESULT,
    SCHEMA,
    TOKENS,
    TOOL,
    TOOL_TEXT,
    called,
    check,
    streamed,
)

litellm.suppress_debug_info = True
messages: list[Any] = [{"role": "user", "content": QUESTION}]
function = {"name": TOOL, "description": TOOL_TEXT, "strict": True, "parameters": SCHEMA}
tools = [{"type": "function", "function": function}]


def asked(tokens: int = TOKENS, said: list[Any] = messages, **more: Any) -> Any:
    """Send a request and return the answer."""
    return litellm.completion(
        model=f"openai/{MODEL}",
        messages=said,
        max_tokens=tokens,
        num_retries=0,
        timeout=900,
        **more,
    )


def tool() -> Any:
    forced = {"type": "function", "function": {"name": TOOL}}
    first = asked(CALL_TOKENS, tools=tools, tool_choice=forced, extra_body=EXTRA)
    said = first.choices[0].message
    (call,) = said.tool_calls
    called(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    history = [*messages, said.model_dump(exclude_none=True), result]
    return asked(said=history, tools=tools, tool_choice="none").choices[0].message.content


def models() -> Any:
    names = litellm.get_valid_models(
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_key=os.environ["OPENAI_API_KEY"],
        api_base=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
    )
    return any(name.endswith(MODEL) for name in names) and names


check("answer", lambda: asked().choices[0].message.content)
check("stream", lambda: streamed(c.choices[0].delta.content for c in asked(stream=True)))
check("tool", tool)
check("models", models)
