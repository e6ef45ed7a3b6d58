"""A pack's text for programs that build their own prompts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from infbox.packing.published import Pack

_OK = 200
_PARTIAL = 206
_NOT_MODIFIED = 304
_NOT_SATISFIABLE = 416

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


def response(pack: Pack, headers: Headers) -> Response:
    """Return a pack, or a part of it, or that it did not change.

    Several ranges at once are answered by the whole, as HTTP allows.

    Args:
        pack: to return.
        headers: of the request; `If-None-Match`, `Range` and `If-Range` count.
    """
    tag = f'"{pack.sha256}"'
    about = {
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "X-Infbox-Generation": str(pack.generation),
        "X-Infbox-Version": str(pack.version),
        "X-Infbox-Pack-Tokens": str(pack.tokens),
    }
    if _names(headers.get("if-none-match", ""), tag):
        return Response(status_code=_NOT_MODIFIED, headers=about)
    about |= {"Accept-Ranges": "bytes", "Content-Type": "text/plain; charset=utf-8"}
    size = len(pack.text)
    wanted = headers.get("range", "") if headers.get("if-range", tag) == tag else ""
    part = _part(wanted, size)
    if part is None:
        return Response(pack.text, _OK, about)
    if not part:
        about["Content-Range"] = f"bytes */{size}"
        return Response(status_code=_NOT_SATISFIABLE, headers=about)
    about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return Response(memoryview(pack.text)[part.start : part.stop], _PARTIAL, about)


def _names(tags: str, tag: str) -> bool:
    return tags == "*" or tag in [own.strip().removeprefix("W/") for own in tags.split(",")]


def _part(wanted: str, size: int) -> range | None:
    """Return which bytes are wanted, none where there are no such; None for all."""
    match = _RANGE.fullmatch(wanted.replace(" ", ""))
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None  # no range at all, and so left alone
    return range(int(first), min(int(last or size), size - 1) + 1)
