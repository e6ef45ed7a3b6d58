"""How long one answer of events goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from starlette.applications import Starlette

from infbox.status.page import Page
from serving import get_text, serving


class Told:
    """A status that is another all the time."""

    def has_space(self) -> bool:
        return True

    async def follow(self, is_over: Callable[[], bool]) -> AsyncIterator[dict[str, Any]]:
        while not is_over():
            yield {"workspaces": []}
            await asyncio.sleep(0.01)


def test_events_end_so_that_whoever_looks_on_is_let_in_anew() -> None:
    page = Page(cast("Any", Told()), lambda _: (), longest=0.2)
    with serving(Starlette(routes=page.routes())) as url:
        assert (
            get_text(f"{url}/status/events").count('data: {"workspaces":[]}') > 3
        )  # and it came to an end
