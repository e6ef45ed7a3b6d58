"""Stored responses: their text, and having them forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.gateway.connection import Incoming
from infbox.gateway.exchange import user_of
from infbox.gateway.refusals import BAD_REQUEST, RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from infbox.gateway.stored.store import ResponseStore
    from infbox.gateway.workspaces import SeenWorkspaces

_PATH = "/v1/responses/{name}"
_NOT_KEPT = {"cache-control": "no-store"}


class StoredResponses:
    """The paths of a stored response.

    Args:
        store: of responses.
        admit: returns the workspaces that a request's user may use, or refuses it.
    """

    def __init__(self, store: ResponseStore, admit: Callable[[Request], SeenWorkspaces]) -> None:
        self._store = store
        self._admit = admit

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route(_PATH, self._show, methods=["GET"]),
            Route(_PATH, self._forget, methods=["DELETE"]),
            Route(f"{_PATH}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        user, name = self._asked(request)
        stored = self._store.find(user, name)
        if request.query_params.get("stream", "false").lower() not in ("false", "0"):
            raise RefusalError(
                BAD_REQUEST, "A stored response is not streamed. Leave out `stream`.", "stream"
            )
        return Response(stored.body, media_type="application/json", headers=_NOT_KEPT)

    async def _forget(self, request: Request) -> Response:
        user, name = self._asked(request)
        self._store.forget(user, name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    async def _cancel(self, request: Request) -> Response:
        user, name = self._asked(request)
        self._store.find(user, name)
        raise RefusalError(
            BAD_REQUEST,
            "Only a response with `background` can be cancelled, and this server has none. To end "
            "an answer that is under way, close its connection.",
            "response_id",
        )

    def _asked(self, request: Request) -> tuple[str, str]:
        self._admit(request)
        user = user_of(Incoming(request.scope, request.receive, 0))
        return user, request.path_params["name"]
