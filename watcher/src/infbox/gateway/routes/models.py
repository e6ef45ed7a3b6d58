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
    from infbox.gateway.workspaces import SeenWorkspaces

_OK = 200


class Models:
    """The paths that list models.

    Args:
        engine: whose they are.
        queue: where requests wait while it is away.
        window: of the model, in tokens, where the engine does not say.
        admit: returns the workspaces that a request's user may use, or refuses it.
    """

    def __init__(
        self,
        engine: Engine,
        queue: RequestQueue,
        window: int,
        admit: Callable[[Request], SeenWorkspaces],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._window = window
        self._admit = admit

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route("/v1/models", self._list), Route("/v1/models/{name:path}", self._show)]

    async def _list(self, request: Request) -> Response:
        """Return vLLM's list, with those ``@`` names that it does not list itself."""
        workspaces = self._admit(request)
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        return JSONResponse({**models, "data": self._with_workspaces(models["data"], workspaces)})

    async def _show(self, request: Request) -> Response:
        """Return the entry of the list that has this name: vLLM has no such path."""
        workspaces = self._admit(request)
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        name = request.path_params["name"]
        entries = self._with_workspaces(models["data"], workspaces)
        found = next((entry for entry in entries if entry.get("id") == name), None)
        if found is None:
            raise RefusalError(
                NOT_FOUND, f"The model {name} does not exist. GET /v1/models lists all models."
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

    def _with_workspaces(
        self, entries: list[dict[str, Any]], workspaces: SeenWorkspaces
    ) -> list[dict[str, Any]]:
        """Return models with a name for each workspace, and the window that its pack leaves.

        vLLM lists the names of all workspaces: those of others are left out.
        """
        model = self._engine.model
        own = next((each for each in entries if each.get("id") == model), {"object": "model"})
        listed = {
            entry.get("id"): entry
            for entry in entries
            if workspaces.is_all or _workspace(entry, model) in (None, *workspaces)
        }
        for name, pack in workspaces.packs().items():
            of_it = f"{model}@{name}"
            entry = listed.get(of_it, own)
            left = entry.get("max_model_len", self._window) - (pack.tokens if pack else 0)
            listed[of_it] = {**entry, "id": of_it, "max_model_len": max(left, 1)}
        return list(listed.values())


def _workspace(entry: dict[str, Any], model: str) -> str | None:
    """Return the workspace that an entry is of; None where it is of none."""
    name = entry.get("id")
    if not isinstance(name, str) or not name.startswith(f"{model}@"):
        return None
    return name.removeprefix(f"{model}@")
