"""The workspaces, their packs and what the watcher says of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from starlette.routing import Route

from infbox.gateway.refusals import NOT_FOUND, RefusalError
from infbox.gateway.routes import download
from infbox.gateway.upstream import client, responses
from infbox.gateway.upstream.engine import SHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from infbox.gateway.upstream.engine import Engine
    from infbox.gateway.workspaces import SeenWorkspaces
    from infbox.packing.published import Pack

_PATH = "/v1/workspaces"


class WorkspacePages:
    """The paths below ``/v1/workspaces``.

    Args:
        engine: of whose model the packs are; its session asks the watcher too.
        watcher: base address of the watcher's pages.
        conversations: says how those of a workspace fared.
        admit: returns the workspaces that a request's user may use, or refuses it.
    """

    def __init__(
        self,
        engine: Engine,
        watcher: str,
        conversations: Callable[[str], dict[str, Any]],
        admit: Callable[[Request], SeenWorkspaces],
    ) -> None:
        self._engine = engine
        self._watcher = watcher
        self._conversations = conversations
        self._admit = admit

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route(_PATH, self._list),
            Route(f"{_PATH}/{{name}}/status", self._status),
            Route(f"{_PATH}/{{name}}/pack", self._pack),
        ]

    async def _list(self, request: Request) -> JSONResponse:
        workspaces = self._admit(request)
        described = [self._describe(name, pack) for name, pack in workspaces.packs().items()]
        return JSONResponse({"object": "list", "data": described})

    async def _status(self, request: Request) -> JSONResponse:
        """Return the pack in use, and what the watcher says of it; null where that is away."""
        name, pack = self._named(request)
        status: dict[str, Any] = {}
        url, session = f"{self._watcher}/status", self._engine.session
        with contextlib.suppress(*client.AWAY, ValueError):
            async with session.get(url, timeout=SHORT) as answer:
                status = (responses.parsed(await answer.read()) or {}).get("workspaces", {})
        return JSONResponse({**self._describe(name, pack), "watcher": status.get(name)})

    async def _pack(self, request: Request) -> Response:
        name, pack = self._named(request)
        if pack is None:
            raise RefusalError(NOT_FOUND, f"The workspace `{name}` has no pack yet.")
        return download.response(pack, request.headers)

    def _named(self, request: Request) -> tuple[str, Pack | None]:
        """Return the workspace that a path names, and its pack.

        Raises:
            RefusalError: there is none of that name for its user, or the request has no user.
        """
        name: str = request.path_params["name"]
        return name, self._admit(request).pack(name)

    def _describe(self, name: str, pack: Pack | None) -> dict[str, Any]:
        return {
            "name": name,
            "model": f"{self._engine.model}@{name}",
            "generation": pack.generation if pack else 0,
            "version": pack.version if pack else 0,
            "tokens": pack.tokens if pack else 0,
            "sha256": pack.sha256 if pack else None,
            "conversations": self._conversations(name),
        }
