"""Tools for agents over the Model Context Protocol, at ``/mcp``.

The protocol is the official SDK's, over streamable HTTP without sessions: each request stands for
itself, so that a restart or another replica loses nothing. The SDK takes some 40 MiB and half a
second to import, so that is left to the first request.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.auth import audit
from infbox.gateway.connection import Incoming
from infbox.gateway.exchange import user_of, workspace_of
from infbox.gateway.refusals import BAD_REQUEST, RefusalError
from infbox.kinds import RETRIEVAL_WEIGHTS
from infbox.metrics import user_label
from infbox.tools import catalog
from infbox.tools.source import ToolError, shortened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from infbox.gateway.workspaces import SeenWorkspaces
    from infbox.kinds import KindWeights
    from infbox.metrics import GatewayMetrics

MAX_BODY_BYTES = 64 * 1024
"""Of a request: the largest argument has a few thousand characters."""

MAX_AT_ONCE = 2
"""Calls that run at once: they share the interpreter with the streams of answers."""

_WAIT_SECONDS = 20.0
_NOT_ALLOWED = 405
_WORKSPACE = "infbox.workspace"  # in the scope of a request
_INSTRUCTIONS = (
    "Read-only tools over the source tree {name}, as it was saved last. Paths are relative to its "
    "root. Ignored files, secrets, generated and binary files are not shown."
)


class ToolRoutes:
    """The paths of the tools.

    Args:
        state_dir: of the watcher.
        metrics: to count in.
        admit: returns the workspaces that a request's user may use, or refuses it.
    """

    def __init__(
        self,
        state_dir: Path,
        metrics: GatewayMetrics,
        admit: Callable[[Request], SeenWorkspaces],
        weights: KindWeights = RETRIEVAL_WEIGHTS,
    ) -> None:
        self._weights = weights
        self._state_dir = state_dir
        self._metrics = metrics
        self._admit = admit
        self._slots = anyio.Semaphore(MAX_AT_ONCE)
        self._manager: Callable[[str], Any] | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route("/mcp", self), Route("/mcp/{workspace}", self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI).

        Raises:
            RefusalError: it names no workspace, or one that there is not, or has no user.
        """
        request = Request(scope, receive, send)
        workspaces = self._admit(request)
        if request.method != "POST":
            # As the protocol has it for a server that sends nothing by itself and has no sessions.
            await _only_post()(scope, receive, send)
            return
        workspace = _named(request, workspaces)
        scope[_WORKSPACE] = workspace
        if self._manager is None:
            self._manager = await anyio.to_thread.run_sync(self._imported)
        # One for each request: the SDK's may be run once, and here has nothing to keep.
        manager = self._manager(workspace)
        async with manager.run():
            await manager.handle_request(scope, receive, send)

    def _imported(self) -> Callable[[str], Any]:
        """Import the SDK, and return what makes a manager for a request about a workspace."""
        import mcp_types  # noqa: PLC0415  # see above
        from mcp.server.lowlevel import Server  # noqa: PLC0415
        from mcp.server.streamable_http_manager import (  # noqa: PLC0415
            StreamableHTTPSessionManager,
        )

        # It tells of each request's manager that it came and went.
        logging.getLogger("mcp").setLevel(logging.WARNING)
        listed = mcp_types.ListToolsResult(tools=[_described(tool) for tool in catalog.TOOLS])

        async def list_tools(_context: Any, _params: Any) -> Any:
            return listed

        async def call_tool(context: Any, params: Any) -> Any:
            text, is_error = await self._call(context.request, params.name, params.arguments or {})
            content = mcp_types.TextContent(type="text", text=text)
            return mcp_types.CallToolResult(content=[content], is_error=is_error)

        def manager(workspace: str) -> Any:
            server = Server(
                "infbox",
                instructions=_INSTRUCTIONS.format(name=workspace),
                on_list_tools=list_tools,
                on_call_tool=call_tool,
            )
            return StreamableHTTPSessionManager(
                app=server, stateless=True, json_response=True, max_request_body_size=MAX_BODY_BYTES
            )

        return manager

    async def _call(
        self, request: Request, name: str, arguments: dict[str, Any]
    ) -> tuple[str, bool]:
        """Call a tool; return what it says, and whether that is why it did nothing."""
        workspace: str = request.scope[_WORKSPACE]
        user = user_label(user_of(Incoming(request.scope, request.receive, 0)))
        tool = catalog.BY_NAME.get(name)
        began = time.monotonic()
        try:
            text, result = await self._run(workspace, tool, name, arguments), "done"
        except ToolError as error:
            text, result = str(error), "refused"
        known = tool.name if tool else ""  # so that no stranger makes labels of metrics
        self._metrics.tool_calls.labels(workspace, user, known, result).inc()
        self._metrics.tool_seconds.labels(known).observe(time.monotonic() - began)
        return text, result != "done"

    async def _run(
        self, workspace: str, tool: catalog.Tool | None, name: str, arguments: dict[str, Any]
    ) -> str:
        """Run a tool in a thread.

        Raises:
            ToolError: it cannot be done.
        """
        if tool is None:
            known = ", ".join(catalog.BY_NAME)
            raise ToolError(f"There is no tool {shortened(name, 40)}. There are: {known}.")
        with anyio.move_on_after(_WAIT_SECONDS) as waiting:
            await self._slots.acquire()
        if waiting.cancelled_caught:
            raise ToolError("The server has many calls at present. Try again.")
        try:
            # It is waited for even if the client leaves, so that no more run at once.
            return await anyio.to_thread.run_sync(
                catalog.call, self._state_dir, workspace, tool, arguments, self._weights
            )
        finally:
            self._slots.release()


def _named(request: Request, workspaces: SeenWorkspaces) -> str:
    """Return the workspace that a request names, by its path or a header.

    Raises:
        RefusalError: it names none, several, or one that there is not for its user.
    """
    by_header = workspace_of(Incoming(request.scope, request.receive, 0))
    by_path: str = request.path_params.get("workspace", "")
    if by_header and by_path and by_header != by_path:
        raise RefusalError(
            BAD_REQUEST,
            "The path and X-Infbox-Workspace name different workspaces. Leave one out.",
        )
    name = by_path or by_header
    if not name and len(only := list(workspaces)) == 1:
        name = only[0]
    if not name:
        raise RefusalError(
            BAD_REQUEST,
            f"Name a workspace: /mcp/NAME. There are: {', '.join(workspaces) or 'none'}.",
        )
    audit.note(request.scope, workspace=name)
    workspaces.check(name)
    return name


def _described(tool: catalog.Tool) -> Any:
    import mcp_types  # noqa: PLC0415

    return mcp_types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=mcp_types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _only_post() -> Response:
    return JSONResponse(
        {"error": {"message": "This path takes POST.", "type": "BadRequestError", "param": None}},
        _NOT_ALLOWED,
        {"allow": "POST"},
    )
