"""pydantic-ai, by OpenAI's variables."""

import asyncio
from typing import Any

from pydantic_ai import Agent, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.direct import model_request_sync
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.tools import ToolDefinition
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

model = OpenAIChatModel(MODEL)
agent = Agent(model, model_settings={"max_tokens": TOKENS})
look_up = ToolDefinition(
    name=TOOL, description=TOOL_TEXT, parameters_json_schema=SCHEMA, strict=True
)


async def pieces() -> list[str]:
    async with agent.run_stream(QUESTION) as run:
        return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]


def tool() -> Any:
    # It says `required` by itself, with which a small model may go on to a second call.
    named = {"type": "function", "function": {"name": TOOL}}
    settings: Any = {"max_tokens": CALL_TOKENS, "extra_body": {**EXTRA, "tool_choice": named}}
    question = ModelRequest([UserPromptPart(QUESTION)])
    forced = ModelRequestParameters(function_tools=[look_up], allow_text_output=False)
    said = model_request_sync(
        model, [question], model_settings=settings, model_request_parameters=forced
    )
    (call,) = [part for part in said.parts if isinstance(part, ToolCallPart)]
    called(call.args)
    result = ModelRequest([ToolReturnPart(TOOL, RESULT, call.tool_call_id)])
    free: Any = {"max_tokens": TOKENS, "tool_choice": "none"}
    told = model_request_sync(
        model,
        [question, said, result],
        model_settings=free,
        model_request_parameters=ModelRequestParameters(function_tools=[look_up]),
    )
    return told.text


check("answer", lambda: agent.run_sync(QUESTION).output)
check("stream", lambda: streamed(asyncio.run(pieces())))
check("tool", tool)
