"""What drivers of libraries share: the question, the tool, and how they say what they saw.

A driver is run by the Python that has its library, with the variables that `infbox-watch client`
prints, and prints a line of JSON for each check.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

QUESTION = "For how long are the books of a cart reserved? Answer in one sentence."
MODEL = os.environ.get("INFBOX_CLIENT_MODEL", "")
TOOL = "look_up"
TOOL_TEXT = "Look a word up in the source tree."
RESULT = "reserved for 30 minutes"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": ["cart", "book"]}},
    "required": ["word"],
    "additionalProperties": False,
}
TOKENS = 6
# Of a forced call, which ends by itself.
CALL_TOKENS = 96
# Such as a bias against white space, for a model that never ends it.
EXTRA: dict[str, Any] = json.loads(os.environ.get("INFBOX_CLIENT_EXTRA", "{}"))


class NotForcedError(Exception):
    """The tool was sent and accepted, but the client cannot make the model call it."""


def check(name: str, of: Callable[[], Any]) -> None:
    """Run a check and print what came of it.

    Args:
        name: answer, stream, tool or models.
        of: returns what was seen, or raises.
    """
    begin = time.monotonic()
    try:
        seen, outcome = of(), "passed"
    except NotForcedError as reason:
        seen, outcome = str(reason), "form"
    except Exception as error:  # noqa: BLE001  # whatever a library raises is what was seen
        seen, outcome = f"{type(error).__name__}: {error}", "failed"
    if outcome == "passed" and not seen:
        outcome = "failed"
    line = {"check": name, "outcome": outcome, "seen": str(seen)[:400],
            "seconds": round(time.monotonic() - begin, 1)}  # fmt: skip
    print(json.dumps(line), flush=True)


def called(arguments: Any) -> Any:
    """Return the arguments of a call, which are what the schema asks for.

    Raises:
        ValueError: they are something else.
    """
    found = json.loads(arguments) if isinstance(arguments, str) else arguments
    if found.get("word") not in ("cart", "book"):
        raise ValueError(f"the call's arguments are {found!r}")
    return found


def streamed(pieces: Any) -> str:
    """Return what a stream said. A slow reader may get all of it in one piece.

    Raises:
        ValueError: it said nothing.
    """
    parts = [piece for piece in pieces if piece]
    if not parts:
        raise ValueError("the stream had no pieces")
    return "".join(parts)
