"""instructor over OpenAI's library, by OpenAI's variables: its answers are objects."""

from typing import Any, Literal

import instructor
import openai
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel
from report import CALL_TOKENS, EXTRA, MODEL, QUESTION, NotForcedError, check, streamed


class Found(BaseModel):
    """What it has a model answer with."""

    word: Literal["cart", "book"]


client = openai.OpenAI(max_retries=0, timeout=900)
asked: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": CALL_TOKENS,
    "max_retries": 0,
    "extra_body": EXTRA,
}


def asker(mode: Any) -> Any:
    """Return its client in one of its modes."""
    return instructor.from_openai(client, mode=mode).chat.completions


def answer() -> Any:
    return asker(instructor.Mode.JSON_SCHEMA).create(response_model=Found, **asked)


def stream() -> str:
    pieces = asker(instructor.Mode.JSON_SCHEMA).create_partial(response_model=Found, **asked)
    return streamed(str(piece) for piece in pieces)


def tool() -> Any:
    try:
        found = asker(instructor.Mode.TOOLS_STRICT).create(response_model=Found, **asked)
    except IncompleteOutputException:
        # The small model, held to nothing, writes arguments until the bound.
        raise NotForcedError("a call came; nothing held its arguments, which did not end") from None
    except InstructorRetryException as error:
        if "validation error" not in str(error):
            raise
        raise NotForcedError("a call came; nothing held its arguments to the schema") from None
    return f"a forced call is its answer, no result is sent: {found}"


def models() -> Any:
    names = [model.id for model in client.models.list()]
    return MODEL in names and names


check("answer", answer)
check("stream", stream)
check("tool", tool)
check("models", models)
