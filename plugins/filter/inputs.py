"""The package's rules of single values, for the assertions of roles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.inputs import rules


def invalid(values: Iterable[Any], kind: str) -> list[Any]:
    """Return the values that are none of a kind.

    Args:
        values: what the user wrote.
        kind: `name`, `user`, `day`, `grant`, `safe_url` or `service_url`.

    Raises:
        AttributeError: there is no such kind.
    """
    is_one: Callable[[object], bool] = getattr(rules, f"is_{kind}")
    return [value for value in values if not is_one(value)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "invalid_inputs": invalid,
            "git_url_hint": rules.git_url_hint,
            "git_ref_hint": rules.git_ref_hint,
        }
