"""Workspaces that are overlays of others."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter import overlays

SHOP: dict[str, Any] = {"name": "shop", "path": "/srv/shop"}


def anna(**more: Any) -> dict[str, Any]:
    return {"name": "shop-anna", "path": "/srv/shop-anna", "base": "shop", **more}


def test_an_overlay_has_a_quarter_more_than_its_base() -> None:
    small = {"name": "small", "path": "/srv/small", "budget": 8000}
    overlay = {**anna(), "name": "small-anna", "base": "small"}
    given = anna(name="shop-ben", budget=30_000)
    found = overlays.budgeted_workspaces([anna(), given, SHOP, small, overlay], 16_000)
    assert [item["budget"] for item in found] == [20_000, 30_000, 16_000, 8000, 10_000]
    assert [item["name"] for item in found][:2] == ["shop-anna", "shop-ben"]


def test_a_workspace_without_a_base_is_as_it_was() -> None:
    (found,) = overlays.budgeted_workspaces([SHOP], 16_000)
    assert list(found.items()) == list({**SHOP, "budget": 16_000}.items()), "in this order"
    assert overlays.base_refusals([SHOP]) == []


def test_a_base_passes_wherever_it_stands_and_whatever_it_is() -> None:
    remote = {"name": "shop", "git": {"url": "https://forge.example/shop.git"}}
    for base in (SHOP, remote, {**SHOP, "budget": 16_000}):
        assert overlays.base_refusals([anna(budget=20_000), base]) == []


@pytest.mark.parametrize(
    ("workspaces", "message"),
    [
        (
            [anna()],
            "shop, which is no workspace. Add it to infbox_workspaces, or",
        ),
        ([SHOP, anna(base=["shop"])], "which is no workspace."),
        ([SHOP, anna(base="")], "which is no workspace."),
        ([anna(base="shop-anna")], "The base of workspace shop-anna is itself."),
        (
            [SHOP, anna(), {"name": "ben", "path": "/srv/ben", "base": "shop-anna"}],
            "The base of workspace ben is shop-anna, which has a base itself, shop. Name one",
        ),
        ([SHOP, anna(model="other")], "for the model other, and its base shop is not"),
        (
            [{**SHOP, "budget": 9000}, anna(budget=9000)],
            "The budget of workspace shop-anna, 9000 tokens, leaves no space beside its base shop",
        ),
    ],
)
def test_it_refuses(workspaces: list[dict[str, Any]], message: str) -> None:
    (refusal,) = overlays.base_refusals(workspaces)
    assert message in refusal


@pytest.mark.parametrize("workspaces", [None, {}, ["shop"], [{"base": "shop"}]])
def test_what_is_no_list_of_workspaces_is_left_to_others(workspaces: Any) -> None:
    assert overlays.base_refusals(workspaces) == []
