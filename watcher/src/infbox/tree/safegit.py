"""Running git for a remote, so that nothing that the remote has runs anything here.

There are no hooks, no filters, no submodules and no configuration but ours, and nothing is spoken
but SSH, to hosts whose keys are known, and HTTPS. Secrets are in files that git and ssh read
themselves: no argument and no variable has one.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import time
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infbox.log import line
from infbox.tree import processes

if TYPE_CHECKING:
    import subprocess
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from infbox.config import Remote

_STALL_SECONDS = 600.0
_END_SECONDS = 5.0
_TICK_SECONDS = 0.5
_SAY_SECONDS = 10.0
_MOST_ANSWER = 1024 * 1024
_MOST_REASON = 300

# The command line comes before every file of configuration. Nothing of it is secret.
_SETTINGS = {
    "advice.detachedHead": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.logAllRefUpdates": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "credential.helper": "",
    # Large files go through in pieces, not through memory.
    "core.bigFileThreshold": "16m",
    "core.packedGitWindowSize": "32m",
    "core.packedGitLimit": "128m",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    # Each push leaves some loose objects, and what falls out of the history with them.
    "gc.auto": "500",
    "gc.autoDetach": "false",
    "gc.autoPackLimit": "20",
    "gc.bigPackThreshold": "512m",
    "gc.pruneExpire": "now",
    "maintenance.auto": "false",
    # A token goes to the host that it was given for, and not to where that sends us.
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "protocol.allow": "never",
    "protocol.ssh.allow": "always",
    "protocol.https.allow": "always",
}
_KEPT = ("PATH", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE")
_SSH = (
    "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none"
    " -o PreferredAuthentications=publickey -o StrictHostKeyChecking=yes -o UpdateHostKeys=no"
    " -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=20 -o ServerAliveInterval=15"
    " -o ServerAliveCountMax=4 -o ClearAllForwardings=yes -o PermitLocalCommand=no"
)
_OF_A_REMOTE = ("fetch", "ls-remote")
_PROGRESS = re.compile(r"(?:remote: )?([A-Z][a-z]+ [a-z]+: +\d+%.*)")
_UNKNOWN_HOST = re.compile(r"host key is known for|Host key verification failed")

_logger = logging.getLogger(__name__)


class FollowError(Exception):
    """A remote cannot be followed at present; the message is one line and says why."""


class LocalError(FollowError):
    """git fails at what needs no remote."""


class StoppedError(Exception):
    """The service is to end."""


class SafeGit:
    """git, as it is run for one remote.

    Args:
        remote: that it is run for.
        secrets: ``known_hosts``, and by remote ``NAME/key`` and ``NAME/token``.
        stop: set when the service is to end.
    """

    def __init__(self, remote: Remote, secrets: Path, stop: threading.Event | None = None) -> None:
        self.step = ""
        """What it is at, in its own words; empty where it does not tell."""
        self._remote = remote
        self._known_hosts = secrets / "known_hosts"
        self._key = secrets / remote.name / "key"
        self._token = secrets / remote.name / "token"
        self._stop = stop
        self._said_at = 0.0

    def run(
        self,
        directory: Path,
        *arguments: str,
        stall: float = _STALL_SECONDS,
        also: tuple[int, ...] = (),
        check: Callable[[], None] | None = None,
    ) -> str:
        """Run git, and return what it prints.

        Args:
            directory: where it is run.
            arguments: the command and its arguments.
            stall: seconds without a word from it after which it is ended.
            also: exit statuses other than 0 that are an answer too.
            check: called now and then; it is ended where that raises.

        Raises:
            FollowError: it failed; a ``LocalError`` where no remote has a part in it.
            StoppedError: the service is to end.
        """
        settings = {**_SETTINGS, **self._own_settings()}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self.step, self._said_at = "", time.monotonic()
        command = ["git", *options, *arguments]
        process = processes.started(
            command, self._environment(directory), directory=directory, is_asked=False
        )
        try:
            answer, said = self._listen(process, stall, check)
        finally:
            self.step = ""
            processes.end(process, grace_seconds=_END_SECONDS)
        if process.returncode not in (0, *also):
            kind = FollowError if arguments[0] in _OF_A_REMOTE else LocalError
            raise kind(self._reason(said, process.returncode))
        return answer

    def check_key(self) -> None:
        """Refuse to go on without a key where one is needed.

        Raises:
            FollowError: so it is.
        """
        if self._remote.url.startswith("ssh:") and not self._key.is_file():
            raise FollowError(f"{self._key} is not there: give the key that the remote knows")

    def _listen(
        self, process: subprocess.Popen[bytes], stall: float, check: Callable[[], None] | None
    ) -> tuple[str, str]:
        """Take in what git says until it ends; return what went to its two outputs."""
        heard = {process.stdout: b"", process.stderr: b""}
        heard_at = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for stream in heard:
                if stream:
                    selector.register(stream, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select(_TICK_SECONDS):
                    part = os.read(key.fd, 1 << 16)
                    if not part:
                        selector.unregister(key.fileobj)
                        continue
                    heard_at = time.monotonic()
                    heard[key.data] = (heard[key.data] + part)[-_MOST_ANSWER:]
                    if key.data is process.stderr:
                        self._note(part.decode(errors="replace"))
                if self._stop and self._stop.is_set():
                    raise StoppedError
                if time.monotonic() - heard_at > stall:
                    raise FollowError(f"git said nothing for {stall:.0f} s and was ended")
                if check:
                    check()
        process.wait()
        answer, said = (text.decode(errors="replace") for text in heard.values())
        return answer, said

    def _note(self, said: str) -> None:
        """Keep how far git is, and tell the journal now and then."""
        for words in re.split(r"[\r\n]", said):
            found = _PROGRESS.match(words)
            if found:
                self.step = found[1].strip()[:_MOST_REASON]
        now = time.monotonic()
        if self.step and now - self._said_at > _SAY_SECONDS:
            self._said_at = now
            _logger.info(line("progress", workspace=self._remote.name, step=self.step))

    def _own_settings(self) -> dict[str, str]:
        """Return what is right for this remote: a token for its host alone, read when asked for."""
        where = urlsplit(self._remote.url)
        settings = {"protocol.http.allow": "always"} if where.scheme == "http" else {}
        if where.scheme != "ssh" and self._token.is_file():
            helper = f'!f() {{ test "$1" = get && cat {quote(str(self._token))}; }}; f'
            settings[f"credential.{where.scheme}://{where.netloc}.helper"] = helper
        return settings

    def _environment(self, directory: Path) -> dict[str, str]:
        known, key = quote(str(self._known_hosts)), quote(str(self._key))
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(directory.parent),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_SSH_COMMAND": f"{_SSH} -o UserKnownHostsFile={known} -i {key}",
            "GIT_SSH_VARIANT": "ssh",
            "GIT_TERMINAL_PROMPT": "0",
        }

    def _reason(self, said: str, status: int) -> str:
        """Return in one line why git failed, and the fix where it is known."""
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
            return (
                "the host has another key than the one it is known by: if its owner says that it "
                f"was changed, take the new one from `{self._scan()}`"
            )
        if _UNKNOWN_HOST.search(said):
            return (
                f"no key of this host is known: compare what `{self._scan()} | ssh-keygen -lf -` "
                "prints with what its owner says, and give what was scanned as known_hosts"
            )
        if "terminal prompts disabled" in said:
            return "the remote asks for a token, or has no such repository: give one, or fix `url`"
        text, _, _advice = said.replace("\r", "\n").partition("\n\n")
        told = [words.strip() for words in text.split("\n") if not _PROGRESS.match(words)]
        words = " - ".join([words for words in told if words][-2:])
        return words[:_MOST_REASON] or f"git ended with status {status}"

    def _scan(self) -> str:
        where = urlsplit(self._remote.url)
        return f"ssh-keyscan{f' -p {where.port}' if where.port else ''} {where.hostname}"
