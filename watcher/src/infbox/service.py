"""The watcher as a service: every workspace followed, packed and kept warm until told to stop.

A workspace has two threads, one that follows its tree and one that packs it, and a warmer in the
event loop. A start with nothing changed is ready before what serves and asks over HTTP is so much
as imported: a connection that comes earlier waits in the listening socket.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from infbox.config import check_paths
from infbox.errors import InputError, UnreadyError
from infbox.follow import Follower, sentinel
from infbox.git import GitError
from infbox.index import Reader, Stamp
from infbox.log import line
from infbox.notify import notify
from infbox.serve import listening, server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from infbox import config as config_file
    from infbox.config import Config
    from infbox.packer import Packer
    from infbox.tokens import Tokenizer

SWITCH_SECONDS = 0.00001
"""A thread that computes gives way to another after this long. A save is taken in with some twenty
system calls, after each of which the follower may have to wait so long for the one that packs:
with Python's own 5 ms that would be a tenth of a second. To wake a thread takes no less."""

_PATIENCE_SECONDS = 2.0
"""A start that takes longer is served before it is ready, so that one can see how it fares."""

_RETRY_SECONDS = 5.0
_PRIVATE_UMASK = 0o027
_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Run the watcher until SIGTERM or SIGINT.

    Raises:
        InputError: the configuration cannot be used on this machine.
    """
    check_paths(config)
    os.umask(_PRIVATE_UMASK)
    listener = listening(config.watcher.listen, "watcher.listen")
    service = Service(config)
    service.start(_PATIENCE_SECONDS)
    try:
        server(service.app(), idle_seconds=5, grace_seconds=1).run(sockets=[listener])
    finally:
        service.stop()


class Service:
    """All workspaces of a configuration, and the pages that show how they fare.

    Args:
        config: its paths were checked.

    Raises:
        InputError: the tokenizer or an index cannot be used.
        UnreadyError: the state directory or a tree cannot be used at present.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._tokenizer: Tokenizer | None = None
        self._control = self._control_tokens()
        self.followers = [self._follower(workspace) for workspace in config.workspaces]
        self.packers: list[Packer] = []
        self.is_ready = False
        """Whether every tree was seen once."""
        self._is_started = False
        self._beat_at: float | None = None

    def app(self) -> Starlette:
        """Return the pages. Serving them runs the service, and ends it."""
        from infbox.work import pages  # noqa: PLC0415  # ready comes first

        return pages(self)

    def start(self, patience: float) -> None:
        """Begin to follow all trees, and tell systemd when each was seen once.

        Args:
            patience: seconds to wait for that; it is told later if it takes longer.

        Raises:
            InputError: a pack cannot be used.
        """
        if self._is_started:
            return
        self._is_started = True
        sys.setswitchinterval(SWITCH_SECONDS)
        for follower in self.followers:
            follower.start()
        ends = time.monotonic() + patience
        for follower in self.followers:
            follower.scanned.wait(max(ends - time.monotonic(), 0))
        self.tell_ready()
        try:
            self.packers = [
                self._packer(workspace, follower)
                for workspace, follower in zip(self.config.workspaces, self.followers, strict=True)
            ]
        except (InputError, UnreadyError):
            self.stop()
            raise
        gc.freeze()  # what is here stays: looking through it each time would hold up the followers

    def stop(self) -> None:
        """Follow no more."""
        for follower in self.followers:
            follower.stop()
        for follower in self.followers:
            if follower.is_alive():
                follower.join(_RETRY_SECONDS)

    def tell_ready(self) -> None:
        if self.is_ready or not all(follower.scanned.is_set() for follower in self.followers):
            return
        self.is_ready = True
        notify("READY=1")
        _logger.info(line("ready", workspaces=len(self.followers)))

    def beat(self) -> None:
        """Write to the folder that each follower watches beside its tree."""
        self._beat_at = time.monotonic()
        try:
            for follower in self.followers:
                folder = sentinel(self.config.state_dir, follower.workspace)
                (folder / "beat").write_text(f"{self._beat_at}\n")
        except OSError as error:
            _logger.error(line("no-heartbeat", file=error.filename, reason=error.strerror))

    def have_heard(self) -> bool:
        """Say whether each follower was told of the last beat, as it would be of a save."""
        beat = self._beat_at
        return beat is not None and all(
            follower.sentinel_seen >= beat for follower in self.followers
        )

    def _follower(self, workspace: config_file.Workspace) -> Follower:
        with _named(workspace.name):
            return Follower(
                name=workspace.name,
                root=workspace.path,
                state_dir=self.config.state_dir,
                max_file_bytes=self.config.watcher.max_file_bytes,
                poll_seconds=self.config.watcher.poll_seconds,
                control_tokens=self._control,
            )

    def _packer(self, workspace: config_file.Workspace, follower: Follower) -> Packer:
        from infbox import tokens  # noqa: PLC0415  # ready comes first
        from infbox.files import Tree  # noqa: PLC0415
        from infbox.packer import Packer  # noqa: PLC0415

        if self._tokenizer is None:
            self._tokenizer = tokens.load(self.config.engine.tokenizer)
        with _named(workspace.name):
            return Packer(
                name=workspace.name,
                model=workspace.model or self.config.engine.model,
                tree=Tree(
                    workspace.path,
                    self.config.watcher.max_file_bytes,
                    control_tokens=self._control,
                ),
                index=Reader(follower.index_file),
                budget=workspace.budget,
                tokenizer=self._tokenizer,
                state_dir=self.config.state_dir,
            )

    def _control_tokens(self) -> tuple[str, ...]:
        """Return the model's control tokens. To read its tokenizer takes longer than a whole start
        may: what was in it is remembered, with the stamp of the file.

        Raises:
            InputError: the tokenizer or the state directory cannot be used.
        """
        file = self.config.engine.tokenizer
        if file is None:
            return ()
        memory = self.config.state_dir / "tokenizer.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(memory.read_text())
            if known["stamp"] == [str(file), *Stamp.of(file.stat())]:
                return tuple(known["control"])
        from infbox import tokens  # noqa: PLC0415  # ready comes first

        self._tokenizer = tokens.load(file)
        self._tokenizer.count("")  # so that one that the library cannot use is told of now
        with _named("tokenizer"):
            self.config.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            stamp = [str(file), *Stamp.of(file.stat())]
            memory.write_text(json.dumps({"stamp": stamp, "control": self._tokenizer.control}))
        return self._tokenizer.control


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which workspace an error is that keeps the service from starting."""
    try:
        yield
    except (OSError, GitError, sqlite3.Error) as error:
        raise UnreadyError(f"workspaces: {name}: {error}") from error
