"""Which program asks, by its User-Agent: a few families, so that no stranger makes labels of
metrics."""

from __future__ import annotations

_FAMILIES = (
    ("claude-cli", "claude-code"),
    ("codex", "codex"),
    ("opencode", "opencode"),
    ("qwencode", "qwen-code"),
    ("litellm", "litellm"),
    ("ai-sdk", "ai-sdk"),
    ("anthropic", "anthropic-sdk"),
    ("openai", "openai-sdk"),
    ("/js ", "openai-sdk"),  # as it names itself where a bundler has renamed its class: Continue
    ("curl", "curl"),
)

OTHER = "other"


def family(agent: str) -> str:
    """Return the family of a client.

    Args:
        agent: its User-Agent.
    """
    agent = agent.lower()
    return next((name for mark, name in _FAMILIES if mark in agent), OTHER)
