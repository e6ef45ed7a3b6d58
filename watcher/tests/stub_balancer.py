"""Stands for Caddy between gateways, where a test says itself which host a request goes to."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from infbox.replicas.placement import route
from serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

OF_ONE_HOP = ("connection", "content-length", "host", "keep-alive", "transfer-encoding")


@dataclass
class StubBalancer:
    """Asks the first of ``order`` that is not in ``away``; after a failure that one is away.

    Attributes:
        order: addresses of gateways, the preferred one first.
        away: those that are not asked.
        routes: what each request was to go by, "" for none.
        full: whether nobody that a request should go to has room.
        forgives: whether one that fails is asked again.
    """

    order: list[str] = field(default_factory=list)
    away: set[str] = field(default_factory=set)
    routes: list[str] = field(default_factory=list)
    full: bool = False
    forgives: bool = False
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[StubBalancer]:
        app = Starlette(routes=[Route("/{path:path}", self._pass, methods=["GET", "POST"])])
        with serving(app) as self.url:
            yield self

    async def _pass(self, request: Request) -> Response:
        route = request.headers.get("x-infbox-route", "")
        if request.method == "POST":
            self.routes.append(route)
        host = next((url for url in self.order if url not in self.away), None)
        if host is None or (self.full and route):
            return Response(status_code=503)
        body = await request.body()
        headers = [(n, v) for n, v in request.headers.items() if n not in OF_ONE_HOP]
        client = aiohttp.ClientSession(auto_decompress=False)
        try:
            answer = await client.request(
                request.method, host + request.url.path, data=body,
                headers=[*headers, ("x-infbox-routed", "1")],
            )  # fmt: skip
        except aiohttp.ClientError:
            await client.close()
            self.away.add(host)
            return Response(status_code=502)
        if answer.status in (502, 503) and not self.forgives:
            self.away.add(host)

        async def chunks() -> AsyncIterator[bytes]:
            async with client, answer:
                async for chunk in answer.content.iter_any():
                    yield chunk

        kept = {n: v for n, v in answer.headers.items() if n.lower() not in OF_ONE_HOP}
        return StreamingResponse(chunks(), answer.status, kept)


class StubHomes:
    """Only says of each workspace who answers."""

    def __init__(self) -> None:
        self.homes = {"shop": "here", "web": "there"}
        self.status = 200

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/ready", self._tell)])

    async def _tell(self, request: Request) -> Response:
        routes = {route(name): host for name, host in self.homes.items()}
        host = routes[request.headers["x-infbox-route"]]
        return Response(status_code=self.status, headers={"x-infbox-host": host})
