"""The models of the engine, with a name for each workspace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.gateway.refusals import NOT_FOUND, RefusalError
from infbox.gateway.upstream import client, responses
from infbox.gateway.upstream.engine import SHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from infbox.gateway.upstream.engine import Engine
    from infbox.gateway.upstream.queue import RequestQueue
    from infbox.gateway.workspaces import Workspaces

_OK = 200


class Models:
    """The paths that list models.

    Args:
        engine: whose they are.
        queue: where requests wait while it is away.
        workspaces: that are listed besides.
        window: of the model, in tokens, where the engine does not say.
        check_user: refuses a request that must have a user and has none.
    """

    def __init__(
        self,
        engine: Engine,
        queue: RequestQueue,
        workspaces: Workspaces,
        window: int,
        check_user: Callable[[Request], None],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._workspaces = workspaces
        self._window = window
        self._check_user = check_user

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route("/v1/models", self._list), Route("/v1/models/{name:path}", self._show)]

    async def _list(self, request: Request) -> Response:
        """Return vLLM's list, with those ``@`` names that it does not list itself."""
        self._check_user(request)
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        return JSONResponse({**models, "data": self._with_workspaces(models["data"])})

    async def _show(self, request: Request) -> Response:
        """Return the entry of the list that has this name: vLLM has no such path."""
        self._check_user(request)
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        name = request.path_params["name"]
        entries = self._with_workspaces(models["data"])
        found = next((entry for entry in entries if entry.get("id") == name), None)
        if found is None:
            raise RefusalError(
                NOT_FOUND, f"There is no model {name}. GET /v1/models lists those that there are."
            )
        return JSONResponse(found)

    async def _engine_models(self, request: Request) -> dict[str, Any] | Response:
        """Return vLLM's list, or what else it answers.

        Queued like a question while vLLM is away: clients ask for it when they start.
        """
        headers = {"authorization": request.headers.get("authorization", "")}
        deadline = time.monotonic() + self._queue.seconds
        url, session = f"{self._engine.url}/v1/models", self._engine.session
        while True:
            try:
                async with session.get(url, headers=headers, timeout=SHORT) as answer:
                    body = await answer.read()
                    status, kind = answer.status, answer.headers.get("content-type")
                break
            except client.AWAY:
                await self._queue.wait(0, deadline)
        models = responses.parsed(body) or {}
        if status != _OK or not isinstance(models.get("data"), list):
            return Response(body, status, media_type=kind)
        return models

    def _with_workspaces(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return models with a name for each workspace, and the window that its pack leaves."""
        model = self._engine.model
        own = next((each for each in entries if each.get("id") == model), {"object": "model"})
        listed = {entry.get("id"): entry for entry in entries}
        for name, pack in self._workspaces.packs().items():
            of_it = f"{model}@{name}"
            entry = listed.get(of_it, own)
            left = entry.get("max_model_len", self._window) - (pack.tokens if pack else 0)
            listed[of_it] = {**entry, "id": of_it, "max_model_len": max(left, 1)}
        return list(listed.values())
