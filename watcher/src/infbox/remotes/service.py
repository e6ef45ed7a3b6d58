"""Follows git remotes: polls each, and at once when a forge calls.

A call says that something was pushed and nothing else: whatever it brings is only measured, to see
that it is signed. What is there to be had, the remote itself is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hmac
import logging
import os
import random
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.errors import UnreadyError
from infbox.log import line
from infbox.remotes.checkout import Checkout
from infbox.runtime.serve import listening, server
from infbox.tree.safegit import FollowError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from starlette.datastructures import Headers
    from starlette.requests import Request

    from infbox.config import Remote, Remotes

MOST_BACK_OFF = 900.0
"""Seconds between polls of a remote that is long away, if it is not polled less often anyway."""

MOST_CALL_BYTES = 25 * 1024 * 1024
"""Of a call; GitHub sends no more."""

_CALL_SECONDS = 30.0
_BREATH_SECONDS = 1.0
_AT_ONCE = 4
_IDLE_SECONDS = 60
_GRACE_SECONDS = 5
_PRIVATE_UMASK = 0o027
_ACCEPTED, _UNAUTHORIZED, _TOO_LARGE = 202, 401, 413

_logger = logging.getLogger(__name__)


def run(settings: Remotes) -> None:
    """Follow until SIGTERM or SIGINT.

    Args:
        settings: of the remotes.

    Raises:
        InputError: the address cannot be had.
        UnreadyError: the directory cannot be used at present.
    """
    os.umask(_PRIVATE_UMASK)
    with _alone(settings.directory):
        listener = listening(settings.listen, "listen")
        service = Service(settings)
        _logger.info(line("ready", listen=settings.listen, remotes=len(settings.remotes)))
        with service.following():
            serving = server(
                service.app(), idle_seconds=_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS
            )
            serving.run(sockets=[listener])


class Metrics:
    """What is counted, by workspace."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.polls = Counter(
            "infbox_remote_polls",
            "Polls of a git remote, by result: same, moved, failed.",
            ("workspace", "result"),
            registry=self.registry,
        )
        self.failures = Gauge(
            "infbox_remote_failures",
            "Polls that failed since the last one that did not.",
            ("workspace",),
            registry=self.registry,
        )
        self.reached = Gauge(
            "infbox_remote_last_success_timestamp_seconds",
            "When a poll last succeeded.",
            ("workspace",),
            registry=self.registry,
        )
        self.calls = Counter(
            "infbox_remote_calls",
            "Calls of forges, by whether they were signed; of unknown workspaces without a name.",
            ("workspace", "result"),
            registry=self.registry,
        )


class Follower(threading.Thread):
    """Follows one remote.

    Args:
        remote: that is followed.
        checkout: its work tree.
        metrics: to count in.
        turns: so many work at once.
        stop: set when the service is to end.
    """

    def __init__(
        self,
        remote: Remote,
        checkout: Checkout,
        metrics: Metrics,
        turns: threading.Semaphore,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"remote-{remote.name}", daemon=True)
        self._remote = remote
        self._checkout = checkout
        self._metrics = metrics
        self._turns = turns
        self._stop_event = stop
        self._called = threading.Event()
        self._failures = 0
        self._error: str | None = None
        self._polled_at: float | None = None
        self._reached_at: float | None = None
        self._moved_at: float | None = None
        metrics.failures.labels(remote.name).set(0)

    def run(self) -> None:
        """Poll until the service is to end."""
        while not self._stop_event.is_set():
            self._called.clear()
            try:
                with self._turns:
                    self._poll()
            except StoppedError:
                return
            except Exception as error:  # one slip does not end what can be tried again
                _logger.exception(line("slip", workspace=self._remote.name))
                self._fail(f"{type(error).__name__}: see the journal of infbox-remotes")
            # Calls that come in a row are one.
            self._stop_event.wait(_BREATH_SECONDS)
            self._called.wait(self.pause() - _BREATH_SECONDS)

    def call(self) -> None:
        """Have it polled now."""
        self._called.set()

    def pause(self) -> float:
        """Return the seconds until the next poll: longer and longer while polls fail."""
        every = float(self._remote.every)
        longest = max(every, MOST_BACK_OFF)
        # Beyond a few doublings it is the longest anyway.
        pause = min(every * 2.0 ** min(self._failures, 10), longest)
        return pause * random.uniform(0.9, 1.1)  # noqa: S311  # so that hosts do not ask all at once

    def status(self) -> dict[str, Any]:
        """Return how it is."""
        return {
            "url": self._remote.url,
            "ref": self._remote.ref or "HEAD",
            "commit": self._checkout.commit,
            "polled": self._polled_at,
            "reached": self._reached_at,
            "moved": self._moved_at,
            "failures": self._failures,
            "error": self._error,
            "step": self._checkout.step or None,
        }

    def _poll(self) -> None:
        name, began = self._remote.name, time.monotonic()
        try:
            has_moved = self._checkout.poll()
        except FollowError as error:
            self._fail(str(error))
            return
        self._polled_at = self._reached_at = time.time()
        self._metrics.reached.labels(name).set(self._reached_at)
        self._metrics.polls.labels(name, "moved" if has_moved else "same").inc()
        self._metrics.failures.labels(name).set(0)
        if self._failures:
            _logger.info(line("reached-again", workspace=name, failures=self._failures))
        self._error = None
        self._failures = 0
        if has_moved:
            self._moved_at = self._reached_at
            commit, seconds = self._checkout.commit, time.monotonic() - began
            _logger.info(line("moved", workspace=name, commit=commit, seconds=seconds))

    def _fail(self, reason: str) -> None:
        self._polled_at = time.time()
        name = self._remote.name
        if reason != self._error:  # what goes on the same way is told once
            _logger.warning(line("not-followed", workspace=name, reason=reason))
        self._metrics.polls.labels(name, "failed").inc()
        self._metrics.failures.labels(name).set(self._failures + 1)
        # In this order: another thread that sees it failed sees why.
        self._error = reason
        self._failures += 1


class Service:
    """Follows all remotes of a configuration.

    Args:
        settings: of the remotes.
    """

    def __init__(self, settings: Remotes) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._stop = threading.Event()
        turns = threading.Semaphore(_AT_ONCE)
        self.followers = {
            remote.name: Follower(
                remote,
                Checkout(
                    remote,
                    settings.directory,
                    settings.secrets,
                    keep_free=settings.keep_free,
                    stop=self._stop,
                ),
                self._metrics,
                turns,
                self._stop,
            )
            for remote in settings.remotes
        }

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow until the block is left."""
        for follower in self.followers.values():
            follower.start()
        try:
            yield
        finally:
            self._stop.set()
            for follower in self.followers.values():
                follower.call()
            for follower in self.followers.values():
                follower.join()

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/hooks/git/{name}", self._take_call, methods=["POST"]),
                Route("/status", self._show_status, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ]
        )

    async def _take_call(self, request: Request) -> Response:
        """Have a remote polled now, if whoever calls knows the secret of its workspace."""
        name = request.path_params["name"]
        is_known = name in self.followers
        secrets = self._secrets(name) if is_known else ()
        try:
            digests = await asyncio.wait_for(_digests(request, secrets), _CALL_SECONDS)
        except (ValueError, asyncio.TimeoutError):
            return JSONResponse({"error": "A call may have 25 MiB."}, _TOO_LARGE)
        label = name if is_known else ""
        # One answer to all who are refused: it does not tell which workspaces there are.
        if not is_signed(request.headers, secrets, digests):
            self._metrics.calls.labels(label, "refused").inc()
            _logger.warning(line("call-refused", workspace=label or "unknown"))
            return JSONResponse({"error": "The secret is not this hook's."}, _UNAUTHORIZED)
        self._metrics.calls.labels(label, "taken").inc()
        self.followers[name].call()
        return JSONResponse({"polled": "soon"}, _ACCEPTED)

    async def _show_status(self, _request: Request) -> Response:
        found = {name: follower.status() for name, follower in self.followers.items()}
        return JSONResponse({"workspaces": found})

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    def _secrets(self, name: str) -> tuple[bytes, ...]:
        """Return the secrets of a workspace's hook: none where there is no hook, and two while one
        takes the place of the other."""
        try:
            content = (self._settings.secrets / name / "webhook").read_bytes()
        except OSError:
            return ()
        return tuple(part for part in content.split() if part)


def is_signed(headers: Headers, secrets: Sequence[bytes], digests: Sequence[bytes]) -> bool:
    """Say whether a call comes from somebody who knows a secret.

    Args:
        headers: of the call. GitHub, Gitea and Forgejo sign the body; GitLab sends the secret.
        secrets: that will do; none lets nobody through.
        digests: of the body, in hex, by the secrets.
    """
    token = headers.get("x-gitlab-token", "").encode()
    signature = headers.get("x-hub-signature-256", "").encode().removeprefix(b"sha256=")
    right = [
        hmac.compare_digest(*pair)
        for secret, digest in zip(secrets, digests, strict=True)
        for pair in ((token, secret), (signature, digest))
    ]
    return any(right)


async def _digests(request: Request, secrets: Sequence[bytes]) -> list[bytes]:
    """Return the digests of a call's body, of which nothing is kept.

    Raises:
        ValueError: it is too large.
    """
    sums = [hmac.new(secret, digestmod=sha256) for secret in secrets]
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_CALL_BYTES:
            raise ValueError
        for each in sums:
            each.update(part)
    return [each.hexdigest().encode() for each in sums]


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Have a directory for this process alone until the block is left.

    Raises:
        UnreadyError: another one has it, or it is not there.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadyError(f"directory: {directory}: {error.strerror}: make it") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UnreadyError(
            f"directory: {directory}: another process follows remotes there: stop that"
        ) from error
    finally:
        os.close(descriptor)
