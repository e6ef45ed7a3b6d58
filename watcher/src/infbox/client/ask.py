"""The command ``infbox ask``: one question, its answer in the terminal, and what it cost.

Nothing but the standard library is imported, so that the answer is not waited for twice.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import ipaddress
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infbox import __version__
from infbox.errors import InputError, UnreadyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

GATEWAY = "http://127.0.0.1:8010"
KEY_VARIABLE = "INFBOX_API_KEY"

_MISTAKE = 2
_UNREADY = 1
_TIMEOUT = 300.0  # seconds without a byte: the gateway queues requests while the engine restarts
_LINE_BYTES = 1 << 20  # of an event, or of an error's body
_LIST_BYTES = 1 << 22
_USER = re.compile(r"[^A-Za-z0-9_.-]")
# What a terminal would obey: an answer is text, and may not move the cursor or set a title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Server:
    """Where to ask, and as whom.

    Attributes:
        url: of the server, without ``/v1``.
        key: the API key; empty on the host itself, where the gateway takes the user's name.
        user: who asks, for the gateway's log; used without a key only.
        authority: file with the certificate of the authority that signed the server's own, or None
            for those of the system.
    """

    url: str
    key: str = field(repr=False)
    user: str
    authority: Path | None = None

    def open(self, path: str, body: dict[str, Any] | None = None) -> http.client.HTTPResponse:
        """Send a request, GET without a body and POST with one.

        Args:
            path: behind the server's address.
            body: sent as JSON.

        Raises:
            InputError: the server refuses the request, or its certificate is not known.
            UnreadyError: the server does not answer.
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"infbox/{__version__}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        else:
            headers |= {"X-Infbox-User": self.user, "X-Infbox-Workspaces": "*"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310
        try:
            answer: http.client.HTTPResponse = self._opener().open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except urllib.error.URLError as error:
            raise self._no_answer(error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(error) from None
        return answer

    def _opener(self) -> urllib.request.OpenerDirector:
        # A key goes where it was meant to go: no proxy on the way to this host, no redirect.
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if _is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))
        if self.url.startswith("https:"):
            try:
                context = ssl.create_default_context(cafile=self.authority)
            except OSError as error:
                raise InputError(
                    f"{self.authority} cannot be read as a certificate ({error}): give the server's"
                    " root.crt to --ca"
                ) from None
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)

    def _no_answer(self, reason: object) -> Exception:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return InputError(
                f"{self.url} shows a certificate that is not trusted ({reason.verify_message}):"
                " give the CA certificate to --ca; the server's own is root.crt"
            )
        return UnreadyError(
            f"{self.url} does not answer ({reason}): name the server with --server https://SERVER,"
            " or look at `systemctl status infbox-gateway` on the host"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        """Follow none: the error shows where the address is wrong."""


@dataclass
class Figures:
    """What an answer cost.

    Attributes:
        first: seconds until the first token; 0 where none came.
        total: seconds until the end.
        prompt_tokens: tokens of the prompt, pack included.
        cached_tokens: how many of them were not computed anew.
    """

    first: float = 0.0
    total: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def take(self, usage: Any) -> None:
        """Take what the last event of a stream tells of tokens."""
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details")
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            if isinstance(details, dict):
                self.cached_tokens = _count(details.get("cached_tokens"))

    def __str__(self) -> str:
        share = self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0
        return (
            f"time to first token {self.first:.2f} s, {self.total:.1f} s in all;"
            f" {self.prompt_tokens:,} tokens of prompt, {self.cached_tokens:,} of them cached"
            f" ({share:.0%})"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``infbox``.

    Args:
        arguments: of the command line; those of the process when None.

    Returns:
        The exit status: 2 where something is wrong with what was given, 1 where the server does
        not answer or breaks off, 130 where a person interrupted it.
    """
    parsed = _parser().parse_args(arguments)
    try:
        ask(parsed)
    except (InputError, UnreadyError) as error:
        print(f"infbox: {error}", file=sys.stderr)
        return _MISTAKE if isinstance(error, InputError) else _UNREADY
    except BrokenPipeError:
        # Whoever read the answer has enough of it.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREADY
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def ask(arguments: argparse.Namespace) -> None:
    """Ask a question; the answer goes to standard output, what it cost to standard error.

    Raises:
        InputError: something that was given is wrong; the message says what.
        UnreadyError: the server does not answer, or broke off.
    """
    question = " ".join(arguments.question).strip() or _standard_input()
    server = find_server(arguments)
    model = arguments.model or choose_model(model_names(server), arguments.workspace)
    print(f"{model} at {server.url}", file=sys.stderr, flush=True)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": arguments.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if arguments.cold:
        body["cache_salt"] = uuid.uuid4().hex
    figures = Figures()
    print_text(stream(server, body, figures), sys.stdout)
    print(figures, file=sys.stderr)


def find_server(arguments: argparse.Namespace) -> Server:
    """Return where to ask: the server that was named, or the gateway of this host.

    Raises:
        InputError: the address is none, no key was given for it, or it would travel in the open.
    """
    url = checked_url(arguments.server or GATEWAY)
    parts = urllib.parse.urlsplit(url)
    user = _USER.sub("", os.environ.get("SUDO_USER") or os.environ.get("USER") or "") or "root"
    if parts.scheme == "http":
        if not _is_loopback(url):
            raise InputError(
                f"--server is {url}, which would send the key unencrypted: give https://"
            )
        # A gateway of this host, which takes the user's name.
        if not arguments.key_file and not (arguments.server and os.environ.get(KEY_VARIABLE)):
            return Server(url, "", user)
    return Server(url, _key(arguments.key_file), user, arguments.ca)


def checked_url(given: str) -> str:
    """Return the address of a server, without ``/v1``.

    Raises:
        InputError: it is none.
    """
    url = given.rstrip("/").removesuffix("/v1")
    is_right = re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", url, re.ASCII)
    try:
        name = urllib.parse.urlsplit(url).hostname
    except ValueError:
        name = None
    if not is_right or not name:
        raise InputError(f"--server is {url!r}: give an address such as https://SERVER")
    return url


def _key(file: Path | None) -> str:
    """Return the key, from a file or from the environment: arguments are seen by every user."""
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise InputError(
                f"no API key for --server: set {KEY_VARIABLE}, or give a file to --key-file"
            )
    else:
        try:
            with file.open(encoding="utf-8") as text:
                key = text.read(4096).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}: {error}: give a file with the API key to --key-file"
            ) from None
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise InputError("the API key is empty or has white space in it: give the key alone")
    return key


def model_names(server: Server) -> list[str]:
    """Return the names of models that a server takes, workspaces included."""
    return list(windows(server))


def windows(server: Server) -> dict[str, int]:
    """Return the models that a server takes, workspaces included, with the window of each.

    Returns:
        name to tokens of conversation and answer, beside the pack; 0 where the server does not
        tell.
    """
    with server.open("/v1/models") as answer:
        content = answer.read(_LIST_BYTES)
    try:
        models = {model["id"]: model.get("max_model_len") for model in json.loads(content)["data"]}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(
            f"{server.url} returned no list of models: is this the address of infbox?"
        ) from None
    return {name: _count(window) for name, window in models.items() if isinstance(name, str)}


def choose_model(names: Sequence[str], workspace: str = "") -> str:
    """Return the model's name with the workspace to ask about.

    Args:
        names: of the models that the server takes.
        workspace: the one that was named; else the only one that there is is taken.

    Raises:
        InputError: there is no such workspace, or more than one and none was named.
    """
    known = {name.partition("@")[2]: name for name in reversed(names) if "@" in name}
    listed = ", ".join(sorted(known)) or "none"
    if workspace:
        if workspace not in known:
            raise InputError(f"there is no workspace {workspace}: give --workspace one of {listed}")
        return known[workspace]
    if len(known) > 1:
        raise InputError(f"there are several workspaces: give --workspace one of {listed}")
    if not known and not names:
        raise InputError("the server lists no model: give --model")
    return next(iter(known.values())) if known else names[0]


def stream(server: Server, body: dict[str, Any], figures: Figures) -> Iterator[str]:
    """Yield the pieces of an answer as they come, and note what it costs.

    Args:
        server: where to ask.
        body: of the request, a chat that streams.
        figures: filled in.

    Raises:
        InputError: the server refuses the request.
        UnreadyError: the stream ended before the answer did.
    """
    start = time.monotonic()
    with server.open("/v1/chat/completions", body) as answer:
        for event in _events(answer):
            figures.take(event.get("usage"))
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                text = delta.get("content") or delta.get("reasoning") or ""
                if text:
                    figures.first = figures.first or time.monotonic() - start
                    yield str(text)
    figures.total = time.monotonic() - start


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream up to its closing mark.

    Raises:
        UnreadyError: the stream ends before that, or tells of an error.
    """
    while True:
        try:
            line = answer.readline(_LINE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise UnreadyError(
                f"the answer was interrupted ({error}): send the question again"
            ) from None
        if not line:
            raise UnreadyError("the answer was interrupted: send the question again")
        if not line.startswith(b"data:"):
            continue
        content = line.removeprefix(b"data:").strip()
        if content == b"[DONE]":
            return
        try:
            event = json.loads(content)
        except ValueError:
            raise UnreadyError(
                "the answer was interrupted within an event: send the question again"
            ) from None
        if isinstance(event, dict):
            if event.get("error"):
                raise UnreadyError(f"{_message(event)}: send the question again")
            yield event


def print_text(pieces: Iterator[str], output: IO[str]) -> None:
    """Print an answer as it comes, without what a terminal would obey."""
    last = "\n"
    for piece in pieces:
        text = _CONTROL.sub("", piece)
        output.write(text)
        output.flush()
        last = text[-1:] or last
    if last != "\n":
        output.write("\n")
        output.flush()


def _refusal(error: urllib.error.HTTPError) -> Exception:
    """Return what a refusal says, in the server's words."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        body = json.loads(error.read(_LINE_BYTES))
        if isinstance(body, dict) and (message := _message(body)):
            kind = InputError if error.code < 500 else UnreadyError  # noqa: PLR2004
            return kind(f"the server answers {error.code}: {message}")
    return UnreadyError(f"the server answers {error.code}: is this the address of infbox?")


def _message(body: dict[str, Any]) -> str:
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(_CONTROL.sub(" ", str(message or "")).split())


def _is_loopback(url: str) -> bool:
    name = urllib.parse.urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _standard_input() -> str:
    """Return a question that was piped in.

    Raises:
        InputError: there is none.
    """
    text = "" if sys.stdin.isatty() else sys.stdin.read(_LIST_BYTES).strip()
    if not text:
        raise InputError('there is no question: infbox ask "Where are orders priced?"')
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="infbox", description="Ask the model about your code.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = commands.add_parser(
        "ask",
        help="send a question and stream the answer",
        description="Send a question and stream the answer. On the host itself no key is needed;"
        f" with --server the key is read from {KEY_VARIABLE} or --key-file.",
    )
    asked.add_argument("question", nargs="*", metavar="QUESTION", help="default: standard input")
    asked.add_argument("--workspace", default="", metavar="NAME", help="default: the only one")
    asked.add_argument("--model", default="", metavar="NAME", help="full model name, CODER@NAME")
    asked.add_argument("--server", default="", metavar="URL", help="default: this host's gateway")
    asked.add_argument("--ca", type=Path, metavar="FILE", help="with --server: its root.crt")
    asked.add_argument(
        "--key-file", type=Path, metavar="FILE", help="with --server: file with the API key"
    )
    asked.add_argument(
        "--max-tokens", type=int, default=400, metavar="N", help="limit of the answer"
    )
    asked.add_argument("--cold", action="store_true", help="use nothing from any cache")
    return parser


if __name__ == "__main__":
    sys.exit(main())
