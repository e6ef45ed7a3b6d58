"""Restart the containers of a compose project that stay unhealthy.

Docker's restart policy is for containers that end: one whose processes hang is called unhealthy,
and stays as it is. Each service's own health check says what unhealthy means; this program only
acts on it.

A container that still starts is left alone: until it has been healthy once, it has twice the time
that its health check gives it for starting. So is one that was told to stop and finishes what it
has taken, which nothing shows but that its checks fail: they must have failed for longer than it
may take to stop. And so is what a person stopped or paused.

A service is restarted so many times within a window and no more: what hangs again at once is not
made better by more of the same, and the log and a metric say that it was given up.

Needs nothing but Python 3.9 and Docker's socket.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

API = "/v1.41"  # of Docker Engine 20.10; later ones speak it too
POLL_SECONDS = 5.0
ANSWER_SECONDS = 30.0  # that Docker may take to tell something
# From asking a container to end to ending it. What hangs does not end by itself, and requests that
# it has taken are lost already.
KILL_SECONDS = 10
RESTART_SECONDS = 60.0  # that a restart may take, ending included
STARTS = 2  # times its start period that a container may take until it is healthy first
LONGEST_REASON = 300  # characters of what a health check said
STOP_SECONDS = 10.0  # Docker's own, where a container has no other
NANOSECONDS = 1_000_000_000
# As Docker writes it, with nanoseconds and the host's own time zone.
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
SERVICE = "com.docker.compose.service"
PROJECT = "com.docker.compose.project"


class DockerError(Exception):
    """Docker does not do what it is asked to; the message says why."""


@dataclass(frozen=True)
class Container:
    """How a container is.

    Attributes:
        id: Docker's.
        service: of the compose project.
        status: running, paused, exited, ….
        health: healthy, unhealthy, starting, or empty where nothing checks it.
        started: when it was started, in Docker's words; another after each start.
        start_period: seconds that its health check gives it for starting.
        stop_period: seconds that it may take to stop.
        failing: seconds from the first to the last of its checks that failed in a row, as far as
            Docker remembers them.
        reason: what the last failed health check said.
    """

    id: str
    service: str
    status: str
    health: str
    started: str
    start_period: float
    stop_period: float
    failing: float
    reason: str


@dataclass
class Service:
    """What is remembered of a service.

    Attributes:
        container: and its start that the next four are about.
        since: when it was seen first, in seconds since the host's boot.
        was_healthy: whether it has been healthy since its start.
        unhealthy_since: when it was seen to be unhealthy first, without a healthy look since.
        failing: seconds that its checks had failed for then.
        restarts: when it was restarted within the window, likewise in seconds since the boot.
        total: how often it was restarted since the boot.
        given_up: whether the limit is reached and it is still unhealthy.
    """

    container: str = ""
    since: float = 0.0
    was_healthy: bool = False
    unhealthy_since: float | None = None
    failing: float = 0.0
    restarts: list[float] = field(default_factory=list)
    total: int = 0
    given_up: bool = False


@dataclass(frozen=True)
class Limit:
    """How often a service is restarted.

    Attributes:
        restarts: within the window, at most.
        window: in seconds.
    """

    restarts: int
    window: float


class Engine(Protocol):
    """What tells of containers and restarts them."""

    def containers(self) -> list[Container]:
        """Return the project's containers."""

    def restart(self, container: str) -> None:
        """Restart one of them."""


class Docker:
    """Docker's API for one compose project.

    Args:
        path: of Docker's socket.
        project: of compose.
    """

    def __init__(self, path: str, project: str) -> None:
        self._path = path
        self._project = project

    def containers(self) -> list[Container]:
        """Return the project's containers, those that are stopped as well.

        Raises:
            DockerError: Docker does not tell.
        """
        filters = quote(json.dumps({"label": [f"{PROJECT}={self._project}"]}))
        listed = self._ask("GET", f"/containers/json?all=true&filters={filters}", ANSWER_SECONDS)
        return [each for one in listed for each in self._inspected(str(one["Id"]))]

    def restart(self, container: str) -> None:
        """Restart a container.

        Args:
            container: its id.

        Raises:
            DockerError: Docker does not.
        """
        self._ask("POST", f"/containers/{container}/restart?t={KILL_SECONDS}", RESTART_SECONDS)

    def _inspected(self, container: str) -> list[Container]:
        """Return how a container is; nothing of one that was removed meanwhile."""
        try:
            told = self._ask("GET", f"/containers/{container}/json", ANSWER_SECONDS)
        except KeyError:
            return []
        return [read(told)]

    def _ask(self, method: str, path: str, seconds: float) -> Any:
        """Return what the API answers.

        Raises:
            DockerError: nothing, or an error.
            KeyError: there is no such container.
        """
        connection = http.client.HTTPConnection("docker", timeout=seconds)
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(seconds)
                channel.connect(self._path)
                connection.sock = channel
                connection.request(method, API + path)
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DockerError(f"{self._path}: {error or type(error).__name__}") from error
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise KeyError(path)
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise DockerError(f"{answer.status} {body.decode(errors='replace').strip()}")
        return json.loads(body) if body else None


def read(told: Mapping[str, Any]) -> Container:
    """Return how a container is, from what Docker tells of it."""
    state, config = told["State"], told["Config"]
    health = state.get("Health") or {}
    streak = health.get("FailingStreak") or 0
    failed = (health.get("Log") or [])[-streak:] if streak else []
    words = (failed[-1].get("Output") or "").split() if failed else []
    stop_period = config.get("StopTimeout")
    return Container(
        id=told["Id"],
        service=(config.get("Labels") or {}).get(SERVICE, told["Name"].lstrip("/")),
        status=state["Status"],
        health=health.get("Status", ""),
        started=state["StartedAt"],
        start_period=(config.get("Healthcheck") or {}).get("StartPeriod", 0) / NANOSECONDS,
        stop_period=STOP_SECONDS if stop_period is None else stop_period,
        failing=seconds(failed[-1]["End"]) - seconds(failed[0]["Start"]) if failed else 0.0,
        reason=" ".join(words)[:LONGEST_REASON],
    )


def seconds(text: str) -> float:
    """Return a time of Docker's in seconds since 1970; 0 for one that cannot be read."""
    if not (match := TIME.fullmatch(text)):
        return 0.0
    whole = datetime.strptime(match[1] + match[3].replace("Z", "+00:00"), "%Y-%m-%dT%H:%M:%S%z")
    return whole.timestamp() + float(match[2] or 0)


class Healer:
    """Restarts what stays unhealthy.

    Args:
        engine: tells of the containers and restarts them.
        limit: of restarts.
        say: takes what people should read, and whether it is an error.
        clock: seconds since the boot.
        known: what was remembered of each service before this program was restarted.
    """

    def __init__(
        self,
        engine: Engine,
        limit: Limit,
        say: Callable[[str, bool], None],
        clock: Callable[[], float],
        known: Mapping[str, Service] | None = None,
    ) -> None:
        self._engine = engine
        self._limit = limit
        self._say = say
        self._clock = clock
        self.services: dict[str, Service] = dict(known or {})

    def look(self) -> list[Container]:
        """Look at each container once, restart those that are to be, and return all.

        Raises:
            DockerError: Docker does not tell how they are.
        """
        containers = self._engine.containers()
        for container in containers:
            service = self.services.setdefault(container.service, Service())
            self._remember(service, container)
            if self._is_due(service, container):
                self._heal(service, container)
        for gone in self.services.keys() - {container.service for container in containers}:
            del self.services[gone]
        return containers

    def _remember(self, service: Service, container: Container) -> None:
        """Take in how the service's container is."""
        now, start = self._clock(), f"{container.id} {container.started}"
        if service.container != start:
            service.container, service.since, service.was_healthy = start, now, False
            service.unhealthy_since = None
        if container.health != "unhealthy":
            service.unhealthy_since = None
        elif service.unhealthy_since is None:
            service.unhealthy_since, service.failing = now, container.failing
        if container.health == "healthy":
            if service.given_up:
                self._say(f"{container.service} is healthy again.", False)
            service.was_healthy, service.given_up = True, False

    def _is_due(self, service: Service, container: Container) -> bool:
        """Return whether a container is to be restarted, unless the limit is reached."""
        if container.status != "running" or service.unhealthy_since is None:
            return False
        # By when it was seen, and not by when Docker says that it started: the clock may jump.
        now = self._clock()
        has_started = service.was_healthy or now - service.since > STARTS * container.start_period
        failing = service.failing + now - service.unhealthy_since
        return has_started and failing > container.stop_period

    def _heal(self, service: Service, container: Container) -> None:
        """Restart a container, or say that it was restarted often enough."""
        now, window = self._clock(), self._limit.window
        service.restarts = [then for then in service.restarts if then > now - window]
        done = len(service.restarts)
        what = f"{container.service} is unhealthy ({container.reason or 'without a word'})"
        if done >= self._limit.restarts:
            if not service.given_up:
                wait = service.restarts[0] + window - now
                self._say(
                    f"{what} and was restarted {done} times within {window:.0f} s already. It is"
                    f" left as it is for {wait:.0f} s: see docker logs {container.id[:12]}",
                    True,
                )
            service.given_up = True
            return
        service.given_up = False
        service.restarts.append(now)
        service.total += 1
        self._say(
            f"{what} and is restarted: {done + 1} of at most {self._limit.restarts} restarts within"
            f" {window:.0f} s.",
            True,
        )
        try:
            self._engine.restart(container.id)
        except (DockerError, KeyError) as error:
            self._say(f"{container.service} was not restarted: {error}", True)


def exposition(
    project: str, services: Mapping[str, Service], containers: Sequence[Container]
) -> str:
    """Return the metrics, in Prometheus's text form."""
    unhealthy = {each.service: int(each.health == "unhealthy") for each in containers}
    return "".join(
        line
        for name, kind, text, values in (
            (
                "infbox_autoheal_restarts_total",
                "counter",
                "Restarts of a container that stayed unhealthy.",
                {name: service.total for name, service in services.items()},
            ),
            (
                "infbox_autoheal_given_up",
                "gauge",
                "1 for a container that is unhealthy and was restarted as often as it may be.",
                {name: int(service.given_up) for name, service in services.items()},
            ),
            (
                "infbox_container_unhealthy",
                "gauge",
                "1 for a container that its health check calls unhealthy.",
                {name: unhealthy.get(name, 0) for name in services},
            ),
        )
        for line in samples(name, kind, text, project, values)
    )


def samples(
    name: str, kind: str, text: str, project: str, values: Mapping[str, int]
) -> Iterator[str]:
    """Yield the lines of one metric."""
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for service, value in sorted(values.items()):
        yield f'{name}{{project="{project}",service="{service}"}} {value}\n'


def write(file: Path, text: str) -> None:
    """Replace a file at once, where its text is another."""
    with contextlib.suppress(OSError):
        if file.read_text() == text:
            return
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(file)


def remembered(file: Path) -> dict[str, Service]:
    """Return what an earlier process of this boot kept; nothing where that cannot be read."""
    try:
        kept = json.loads(file.read_text())
        return {name: Service(**service) for name, service in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(file: Path, services: Mapping[str, Service]) -> None:
    """Keep what is remembered, for the next process of this boot."""
    write(file, json.dumps({name: vars(service) for name, service in services.items()}))


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to systemd; without systemd this does nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())


def say(text: str, is_error: bool) -> None:
    """Write a line that systemd's journal knows the level of."""
    print(f"<{3 if is_error else 6}>{text}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Look again and again, until the process is ended."""
    docker = Docker(arguments.socket, arguments.project)
    known = remembered(arguments.state)
    limit = Limit(arguments.limit, arguments.window)
    healer = Healer(docker, limit, say, boot_clock, known)
    notify("READY=1")
    was_away = False
    while True:
        try:
            containers = healer.look()
        except DockerError as error:
            # It is no business of ours to bring Docker back; while it is away nothing can be done.
            if not was_away:
                say(f"Docker does not tell how the containers are: {error}", True)
            was_away = True
        else:
            was_away = False
            keep(arguments.state, healer.services)
            write(arguments.metrics, exposition(arguments.project, healer.services, containers))
        notify("WATCHDOG=1")
        time.sleep(POLL_SECONDS)


def boot_clock() -> float:
    """Return the seconds since the host's boot, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main(words: Sequence[str] | None = None) -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", required=True, help="of compose")
    parser.add_argument("--limit", type=int, required=True, help="restarts within the window")
    parser.add_argument("--window", type=float, required=True, help="seconds")
    parser.add_argument("--state", type=Path, required=True, help="file that a boot removes")
    parser.add_argument("--metrics", type=Path, required=True, help="file for the node exporter")
    parser.add_argument("--socket", default="/var/run/docker.sock", help="Docker's")
    run(parser.parse_args(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
