"""Structured log lines: an event, then key=value pairs. Never file contents, never secrets."""

from __future__ import annotations

import json
import logging
import sys


def line(event: str, **fields: object) -> str:
    """Return ``event`` followed by its fields.

    Args:
        event: what happened, in a word or two joined by hyphens.
        fields: values; floats are cut to milliseconds, text that needs it is quoted as JSON.
    """
    return " ".join([event, *(f"{key}={_value(value)}" for key, value in fields.items())])


def to_stderr(level: int = logging.INFO) -> None:
    """Send the log of this process to standard error, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("time=%(asctime)s level=%(levelname)s from=%(name)s event=%(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    plain = text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain and text else json.dumps(text)
