"""OpenAI's Python library, by its own variables: chat completions, and once Responses."""

from typing import Any

import openai
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

client = openai.OpenAI(max_retries=0, timeout=900)
create: Any = client.chat.completions.create
messages: list[Any] = [{"role": "user", "content": QUESTION}]
# Without `strict` vLLM lets a model write any arguments.
function = {"name": TOOL, "description": TOOL_TEXT, "strict": True, "parameters": SCHEMA}
tools = [{"type": "function", "function": function}]


def answer() -> Any:
    return create(model=MODEL, messages=messages, max_tokens=TOKENS).choices[0].message.content


def stream() -> str:
    chunks = create(model=MODEL, messages=messages, max_tokens=TOKENS, stream=True)
    return streamed(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)


def tool() -> Any:
    forced = {"type": "function", "function": {"name": TOOL}}
    asked = {"model": MODEL, "tools": tools, "extra_body": EXTRA}
    said = create(**asked, messages=messages, tool_choice=forced, max_tokens=CALL_TOKENS)
    (call,) = said.choices[0].message.tool_calls
    called(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    history = [*messages, said.choices[0].message.model_dump(exclude_none=True), result]
    told = create(**asked, messages=history, tool_choice="none", max_tokens=TOKENS)
    return told.choices[0].message.content


def models() -> Any:
    names = [model.id for model in client.models.list()]
    return MODEL in names and names


check("answer", answer)
check("stream", stream)
check("tool", tool)
check("models", models)
