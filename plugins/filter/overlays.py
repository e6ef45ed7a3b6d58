"""Workspaces that are overlays of others: their budgets, and what stops a run at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SPACE = 4
"""Without a budget of its own, an overlay has a quarter more than its base, for what differs."""


def budgeted_workspaces(
    workspaces: Sequence[Mapping[str, Any]], budget: int
) -> list[dict[str, Any]]:
    """Return all workspaces with the budget that each has, in tokens.

    Args:
        workspaces: what the user wrote, each with its path.
        budget: of one that says none and has no base.
    """
    own = {item["name"]: item.get("budget", budget) for item in workspaces if "base" not in item}
    over = {name: most * (SPACE + 1) // SPACE for name, most in own.items()}
    # The order of the keys is that of the rendered file, by which the watcher is started anew.
    return [
        {**item, "budget": item.get("budget", over.get(item.get("base"), budget))}
        for item in workspaces
    ]


def base_refusals(workspaces: Any) -> list[str]:
    """Refuse overlays that cannot begin with the pack that they name.

    Args:
        workspaces: what the user wrote; what has another form is left to the other refusals.
    """
    items = workspaces if isinstance(workspaces, list) else []
    by_name = {item["name"]: item for item in items if isinstance(item, dict) and item.get("name")}
    return [
        refusal
        for name, item in by_name.items()
        if "base" in item and (refusal := base_refusal(name, item, by_name))
    ]


def base_refusal(name: str, item: Mapping[str, Any], by_name: Mapping[str, Any]) -> str:
    """Return why a workspace's base cannot be one; empty where it can.

    Args:
        name: of the workspace.
        item: what the user wrote of it.
        by_name: all workspaces.
    """
    base_name = item["base"]
    if not isinstance(base_name, str) or base_name not in by_name:
        return (
            f"The base of workspace {name} is {base_name}, which is no workspace. Add it to"
            " infbox_workspaces, or correct the base."
        )
    base = by_name[base_name]
    if base is item:
        return f"The base of workspace {name} is itself. Name another, or remove it."
    if "base" in base:
        return (
            f"The base of workspace {name} is {base_name}, which has a base itself, {base['base']}."
            " Name one without."
        )
    if item.get("model", base.get("model")) != base.get("model"):
        return (
            f"Workspace {name} is for the model {item['model']}, and its base {base_name} is not:"
            " models share no cache. Remove the model, or the base."
        )
    budgets = item.get("budget"), base.get("budget")
    if all(isinstance(budget, int) for budget in budgets) and budgets[0] <= budgets[1]:
        return (
            f"The budget of workspace {name}, {budgets[0]} tokens, leaves no space beside its base"
            f" {base_name}, which has {budgets[1]}. Give more, or leave it out."
        )
    return ""


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"budgeted_workspaces": budgeted_workspaces, "base_refusals": base_refusals}
