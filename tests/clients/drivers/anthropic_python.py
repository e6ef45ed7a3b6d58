"""Anthropic's Python library, by its own variables."""

from typing import Any

import anthropic
from report import (
    CALL_TOKENS,
    MODEL,
    QUESTION,
    RESULT,
    SCHEMA,
    TOKENS,
    TOOL,
    TOOL_TEXT,
    check,
    streamed,
)

client = anthropic.Anthropic(max_retries=0, timeout=900)
messages: list[Any] = [{"role": "user", "content": QUESTION}]
tools: Any = [{"name": TOOL, "description": TOOL_TEXT, "input_schema": SCHEMA}]
create: Any = client.messages.create


def answer() -> Any:
    return create(model=MODEL, messages=messages, max_tokens=TOKENS).content[0].text


def stream() -> str:
    with client.messages.stream(model=MODEL, messages=messages, max_tokens=TOKENS) as events:
        return streamed(events.text_stream)


def first_call() -> Any:
    """Return the call that a forced answer begins with.

    Its arguments are not looked at: this API has no way to hold a small model to their schema.
    """
    forced = {"type": "tool", "name": TOOL}
    events = create(
        model=MODEL,
        messages=messages,
        tools=tools,
        tool_choice=forced,
        max_tokens=CALL_TOKENS,
        stream=True,
    )
    with events:
        for event in events:
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                return event.content_block
    raise ValueError("no call came")


def tool() -> Any:
    call = first_call()
    use = {"type": "tool_use", "id": call.id, "name": call.name, "input": {"word": "cart"}}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
    history = [
        *messages,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    told = create(model=MODEL, messages=history, tools=tools, max_tokens=TOKENS)
    return told.content[0].text


def models() -> Any:
    names = [model.id for model in client.models.list()]
    return MODEL in names and names


check("answer", answer)
check("stream", stream)
check("tool", tool)
check("models", models)
