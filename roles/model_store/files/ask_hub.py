"""Asks a hub which commit the default branch of a model has.

Reads what to ask as JSON from standard input, since a token must not stand in a command line:
`endpoint`, `repository`, `token` or `token_file`, and `ca`, CA certificates besides the host's own.
Proxies come by the environment. Prints {"commit": …}, or {"refusal": …}. It needs Python alone, of
3.10 or later: there is no image yet.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

TRIES = 3
TIMEOUT = 15
# Seconds in all, and bytes of an answer: a list of files has a few hundred entries.
PATIENCE = 60
LONGEST = 8 * 1024 * 1024
REFUSED = (401, 403, 404)
FIX = "Set model.revision of the preset to a commit, or give the model by infbox_model_upload."


class RefusedError(Exception):
    """The hub does not tell the commit; the message says what to do."""


class SameHub(urllib.request.HTTPRedirectHandler):
    """Shows the token to nobody but the hub."""

    def redirect_request(
        self, req: urllib.request.Request, *answer: Any
    ) -> urllib.request.Request | None:
        """Follow, without the token where the address is another server's."""
        new = super().redirect_request(req, *answer)
        if new and server(new.full_url) != server(req.full_url):
            new.remove_header("Authorization")
        return new


def server(address: str) -> tuple[str, str]:
    """Return scheme and server of an address."""
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.netloc


def token_of(asked: dict[str, Any]) -> str:
    """Return the token, if there is one."""
    if asked.get("token"):
        return str(asked["token"])
    try:
        return Path(asked.get("token_file") or "").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def address_of(asked: dict[str, str]) -> str:
    """Return where to ask.

    Raises:
        RefusedError: that is no address of a hub, or no name of a model.
    """
    endpoint, repository = asked["endpoint"].rstrip("/"), asked["repository"]
    if not re.match(r"https?://[^/\s]", endpoint):
        raise RefusedError(f"{endpoint} is no address of a hub. Correct infbox_hub_endpoint.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise RefusedError(f"{repository} is no name of a model, as OWNER/NAME. Correct it.")
    return f"{endpoint}/api/models/{repository}"


def opener_of(asked: dict[str, Any]) -> urllib.request.OpenerDirector:
    """Return what asks.

    Raises:
        RefusedError: the CA certificates are none.
    """
    context = ssl.create_default_context()
    if (asked.get("ca") or "").strip():
        try:
            context.load_verify_locations(cadata=asked["ca"])
        except (ssl.SSLError, ValueError) as error:
            message = f"infbox_ca_certificates cannot be read: {error}. Correct them."
            raise RefusedError(message) from None
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), SameHub())


def read(opener: urllib.request.OpenerDirector, request: Any, end: float) -> bytes:
    """Return an answer, which has to be there in time and not to be too long."""
    pieces = b""
    with opener.open(request, timeout=TIMEOUT) as answer:
        while piece := answer.read1(64 * 1024):
            pieces += piece
            if len(pieces) > LONGEST or time.monotonic() > end:
                raise OSError("its answer does not end")
    return pieces


def commit_of(asked: dict[str, str], wait: float = 2) -> str:
    """Return the commit of a model's default branch.

    Args:
        asked: as the module says.
        wait: seconds before the second try; before the third it is twice as long.

    Raises:
        RefusedError: the hub refuses, does not answer, or answers something else.
    """
    address, opener = address_of(asked), opener_of(asked)
    request = urllib.request.Request(address)  # noqa: S310
    request.add_header("User-Agent", "infbox")
    if token := token_of(asked):
        request.add_header("Authorization", f"Bearer {token}")
    end, why = time.monotonic() + PATIENCE, ""
    for number in range(TRIES):
        if number:
            time.sleep(wait * number)
        try:
            return commit_in(read(opener, request, end), asked)
        except urllib.error.HTTPError as error:
            if error.code in REFUSED:
                raise RefusedError(refusal(error.code, asked)) from None
            why = f"it answers {error.code}"
        # The library raises ValueError and others of its own for answers that are no HTTP.
        except Exception as error:
            if isinstance(error, RefusedError):
                raise
            why = str(error)[:200] or type(error).__name__
        if time.monotonic() > end:
            break
    endpoint = asked["endpoint"]
    raise RefusedError(
        f"{endpoint} does not tell the commit of {asked['repository']}: {why}. Run again, set"
        f" infbox_hub_endpoint to a mirror that can be reached, or go without: {FIX}"
    )


def commit_in(answer: bytes, asked: dict[str, str]) -> str:
    """Return the commit that an answer tells.

    Raises:
        RefusedError: it tells none.
    """
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        told = None
    commit = told.get("sha") if isinstance(told, dict) else None
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise RefusedError(
            f"{asked['endpoint']} answers no commit of 40 digits for {asked['repository']}. Use"
            f" another mirror, or go without: {FIX}"
        )
    return commit


def refusal(status: int, asked: dict[str, str]) -> str:
    """Return what the status of a refusal means and what to do about it."""
    endpoint, repository = asked["endpoint"], asked["repository"]
    if status == REFUSED[-1]:
        return (
            f"{endpoint} knows no model {repository}, or shows it to nobody without the right"
            " token. Correct the name, or give a token that may read it by infbox_hub_token."
        )
    return (
        f"{endpoint} refuses {repository} ({status}). Accept its terms there and give a valid token"
        " of that account by infbox_hub_token."
    )


def main() -> int:
    """Ask, and print what came of it."""
    asked = json.load(sys.stdin)
    # urllib takes the names in small letters for certain.
    for name in ("https_proxy", "http_proxy", "no_proxy"):
        if name.upper() in os.environ:
            os.environ.setdefault(name, os.environ[name.upper()])
    try:
        print(json.dumps({"commit": commit_of(asked)}))
    except RefusedError as error:
        print(json.dumps({"refusal": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
