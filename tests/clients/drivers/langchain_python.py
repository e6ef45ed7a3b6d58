"""langchain-openai, by OpenAI's variables."""

from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI
from report import (
    CALL_TOKENS,
    EXTRA,
    MODEL,
    QUESTION,
    RESULT,
    TOKENS,
    TOOL,
    called,
    check,
    streamed,
)


@as_tool(
    TOOL,
    args_schema={
        "title": TOOL,
        "description": "Look a word up in the source tree.",
        "type": "object",
        "properties": {"word": {"type": "string", "enum": ["cart", "book"]}},
        "required": ["word"],
        "additionalProperties": False,
    },
)
def look_up(word: str) -> str:
    """Look a word up in the source tree."""
    return f"{word}: {RESULT}"


def chat(tokens: int = TOKENS) -> Any:
    """A model that has this many tokens for its answer."""
    return ChatOpenAI(
        model=MODEL, max_completion_tokens=tokens, max_retries=0, timeout=900, extra_body=EXTRA
    )


def tool() -> Any:
    question = HumanMessage(QUESTION)
    said = chat(CALL_TOKENS).bind_tools([look_up], tool_choice=TOOL, strict=True).invoke([question])
    (call,) = said.tool_calls
    called(call["args"])
    result = ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])
    told = chat().bind_tools([look_up], tool_choice="none").invoke([question, said, result])
    return told.content


check("answer", lambda: chat().invoke(QUESTION).content)
check("stream", lambda: streamed(chunk.content for chunk in chat().stream(QUESTION)))
check("tool", tool)
