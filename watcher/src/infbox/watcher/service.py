"""The watcher as a service: every workspace followed, packed and kept warm until told to stop.

Each workspace has a thread here that follows its tree, and nothing else runs here. Packing, warming
and the pages are the work of another process (``worker.py``), which is started once this one is
ready: a connection that comes earlier waits in the listening socket.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from infbox.errors import GitError, InputError, UnreadyError
from infbox.log import line
from infbox.runtime import memory
from infbox.runtime.background import Turns
from infbox.runtime.notify import notify
from infbox.tree.records import Stamp
from infbox.watching.follower import Follower, sentinel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infbox import config as config_file
    from infbox.config import Config

SWITCH_SECONDS = 0.00001
"""A thread that computes gives way to another after this long. A save is taken in with some twenty
system calls, after each of which a follower may have to wait so long for another one: with Python's
own 5 ms that would be a tenth of a second. To wake a thread takes no less."""

AT_WORK = 4
"""So many followers list and read at once. With all of sixty at it, threads would be woken every 10
microseconds only to wait on, which would take four fifths of the time until they are ready. More
than one, since one may wait for its disk."""

_END_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class Service:
    """Follows all workspaces of a configuration.

    Args:
        config: its paths were checked.

    Raises:
        InputError: the tokenizer or an index cannot be used.
        UnreadyError: the state directory or a tree cannot be used at present.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._control = _control_tokens(config)
        self._turns = Turns(AT_WORK)
        self.followers = [self._follower(workspace) for workspace in config.workspaces]
        self.is_ready = False
        """Whether every tree was seen once, but for those that give no answer."""
        self._beat_at: float | None = None

    def start(self, patience: float) -> None:
        """Begin to follow all trees, and tell systemd when each was seen once.

        Args:
            patience: seconds to wait for that; it is told later if it takes longer.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        for follower in self.followers:
            follower.start()
        ends = time.monotonic() + patience
        for follower in self.followers:
            follower.scanned.wait(max(ends - time.monotonic(), 0))
        self.tell_ready()
        gc.freeze()  # what is here stays: looking through it each time would hold up the followers

    def stop(self) -> None:
        """Follow no more."""
        for follower in self.followers:
            follower.stop()
        ends = time.monotonic() + _END_SECONDS  # for all together: one that hangs does not end
        for follower in self.followers:
            if follower.is_alive():
                follower.join(max(ends - time.monotonic(), 0))

    def tell_ready(self) -> None:
        """Tell systemd once each tree was seen, or gives no answer."""
        if self.is_ready or not all(map(_was_tried, self.followers)):
            return
        self.is_ready = True
        notify("READY=1")
        _logger.info(line("ready", workspaces=len(self.followers)))
        memory.give_back()  # what a first listing took

    def beat(self) -> None:
        """Write to the directory that each follower watches beside its tree."""
        self._beat_at = time.monotonic()
        try:
            for follower in self.followers:
                directory = sentinel(self.config.state_dir, follower.workspace)
                (directory / "beat").write_text(f"{self._beat_at}\n")
        except OSError as error:
            _logger.error(line("no-heartbeat", file=error.filename, reason=error.strerror))

    def have_heard(self) -> bool:
        """Say whether each follower was told of the last beat, as it would be of a save.

        One that hangs is left out: its tree gives no answer, which a restart would not change.
        """
        beat = self._beat_at
        return beat is not None and all(
            follower.sentinel_seen >= beat or follower.hangs_since() is not None
            for follower in self.followers
        )

    def _follower(self, workspace: config_file.Workspace) -> Follower:
        with named(workspace.name):
            return Follower(
                name=workspace.name,
                root=workspace.path,
                state_dir=self.config.state_dir,
                max_file_bytes=self.config.watcher.max_file_bytes,
                poll_seconds=self.config.watcher.poll_seconds,
                control_tokens=self._control,
                turns=self._turns,
            )


def _control_tokens(config: Config) -> tuple[str, ...]:
    """Return the model's control tokens.

    To read its tokenizer takes longer than a whole start may, and room that this process then would
    keep: another reads it, and what was in it is remembered, with the stamp of the file.

    Raises:
        InputError: the tokenizer cannot be used.
        UnreadyError: the state directory cannot be used at present.
    """
    file = config.engine.tokenizer
    if file is None:
        return ()
    memory = config.state_dir / "tokenizer.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(memory.read_text())
        if known["stamp"] == [str(file), *Stamp.of(file.stat())]:
            return tuple(known["control"])
    control = read_control_tokens(file)
    with named("tokenizer"):
        config.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        stamp = [str(file), *Stamp.of(file.stat())]
        memory.write_text(json.dumps({"stamp": stamp, "control": control}))
    return control


def read_control_tokens(file: Path) -> tuple[str, ...]:
    """Have another process read a tokenizer's control tokens.

    Args:
        file: its ``tokenizer.json``.

    Raises:
        InputError: it cannot be used.
    """
    import subprocess  # noqa: PLC0415  # a restart has read it before

    command = [sys.executable, "-m", "infbox.packing.tokens", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(done.stderr.strip())
    return tuple(json.loads(done.stdout))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Say of which workspace an error is that keeps the service from starting.

    Args:
        name: of the workspace.

    Raises:
        UnreadyError: in place of what the block raised.
    """
    try:
        yield
    except (OSError, GitError, sqlite3.Error) as error:
        raise UnreadyError(f"workspaces: {name}: {error}") from error


def _was_tried(follower: Follower) -> bool:
    """Say whether a tree was seen once, or gives no answer."""
    return follower.scanned.is_set() or follower.hangs_since() is not None
