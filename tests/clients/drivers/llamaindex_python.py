"""LlamaIndex's `OpenAILike`, by OpenAI's variables."""

import os
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from report import CALL_TOKENS, EXTRA, MODEL, QUESTION, RESULT, TOKENS, TOOL, check, streamed


def look_up(word: str) -> str:
    """Look a word up in the source tree."""
    return f"{word}: {RESULT}"


def model(tokens: int = TOKENS, **more: Any) -> Any:
    """A model that has this many tokens for its answer."""
    return OpenAILike(
        model=MODEL,
        # Its own name of the variable is another.
        api_base=os.environ["OPENAI_BASE_URL"],
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        max_tokens=tokens,
        max_retries=0,
        timeout=900,
        strict=True,
        **more,
    )


def tool() -> Any:
    made = FunctionTool.from_defaults(look_up)
    question = ChatMessage(role=MessageRole.USER, content=QUESTION)
    asker = model(CALL_TOKENS, additional_kwargs={"extra_body": EXTRA})
    said = asker.chat_with_tools([made], chat_history=[question], tool_required=True)
    (call,) = asker.get_tool_calls_from_response(said)
    assert call.tool_name == TOOL  # a driver is a test
    result = ChatMessage(
        role=MessageRole.TOOL,
        content=look_up(**call.tool_kwargs),
        additional_kwargs={"tool_call_id": call.tool_id},
    )
    return model().chat([question, said.message, result]).message.content


check("answer", lambda: model().complete(QUESTION).text)
check("stream", lambda: streamed(piece.delta for piece in model().stream_complete(QUESTION)))
check("tool", tool)
