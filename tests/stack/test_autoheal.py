"""When a container is restarted, and when it is left alone; with Docker: molecule/stack."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import infbox_autoheal as autoheal
import pytest
from infbox_autoheal import Container, DockerError, Healer, Limit, Service

START_PERIOD = 600.0
WINDOW = 3600.0
VLLM = Container(
    "a1", "vllm", "running", "starting", "10:00", START_PERIOD, 90, 200, "nothing came"
)


@dataclass
class Host:
    """A host of one container, whose clock is set by hand.

    Attributes:
        container: as Docker tells it.
        now: seconds since the boot.
        restarted: containers, in order.
        said: lines, in order.
        refuses: whether Docker restarts nothing.
    """

    container: Container = VLLM
    now: float = 50.0
    restarted: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    refuses: bool = False

    def containers(self) -> list[Container]:
        return [self.container]

    def restart(self, container: str) -> None:
        self.restarted.append(container)
        if self.refuses:
            raise DockerError("no")
        self.container = replace(self.container, health="starting", started=f"at {self.now}")

    def healer(self, known: dict[str, Service] | None = None) -> Healer:
        say = lambda text, _is_error: self.said.append(text)  # noqa: E731
        return Healer(self, Limit(3, WINDOW), say, lambda: self.now, known)

    def is_told(self, health: str, status: str = "running") -> None:
        self.container = replace(self.container, health=health, status=status)


@pytest.fixture
def host() -> Host:
    return Host()


def test_one_that_was_healthy_and_is_not_any_more_is_restarted_at_once(host: Host) -> None:
    healer = host.healer()
    for health in ("starting", "healthy", "unhealthy"):
        host.is_told(health)
        healer.look()
    assert host.restarted == ["a1"]
    assert host.said == [
        "vllm is unhealthy (nothing came) and is restarted: 1 of at most 3 restarts within 3600 s."
    ]


def test_one_that_still_starts_has_twice_its_time(host: Host) -> None:
    healer = host.healer()
    for health, passed in (("starting", 0.0), ("unhealthy", 650.0), ("unhealthy", 540.0)):
        host.is_told(health)
        host.now += passed
        healer.look()
    assert host.restarted == []
    host.now += 11.0
    healer.look()
    assert host.restarted == ["a1"]


def test_a_start_by_somebody_else_is_a_start_as_well(host: Host) -> None:
    healer = host.healer()
    host.is_told("healthy")
    healer.look()
    host.container = replace(host.container, started="11:00", health="unhealthy")
    host.now += 2 * START_PERIOD
    healer.look()
    assert host.restarted == []


def test_one_that_may_be_stopping_is_left_alone_until_it_would_have_stopped(host: Host) -> None:
    healer = host.healer()
    host.is_told("healthy")
    healer.look()
    host.container = replace(host.container, health="unhealthy", failing=20.0)
    for passed in (0.0, 69.0):
        host.now += passed
        healer.look()
    assert host.restarted == []
    host.now += 2.0
    healer.look()
    assert host.restarted == ["a1"]


def told_by_docker(streak: int) -> Container:
    """Return what is read of a container that Docker tells of."""
    log = [
        {"Start": f"2026-11-29T21:3{minute}:00.5{zone}", "End": f"2026-11-29T21:3{minute}:05{zone}",
         "ExitCode": 1, "Output": f"one\n {minute}\n"}
        for minute, zone in enumerate(("Z", "+00:00", "Z"))
    ]  # fmt: skip
    health = {"Status": "unhealthy", "FailingStreak": streak, "Log": log}
    return autoheal.read(
        {
            "Id": "a1",
            "Name": "/infbox-vllm-1",
            "State": {"Status": "running", "StartedAt": "10:00", "Health": health},
            "Config": {
                "Labels": {"com.docker.compose.service": "vllm"},
                "Healthcheck": {"StartPeriod": 600_000_000_000},
                "StopTimeout": 90,
            },
        }
    )


@pytest.mark.parametrize(("streak", "failing"), [(0, 0.0), (1, 4.5), (2, 64.5), (9, 124.5)])
def test_how_long_checks_have_failed_is_read_from_those_in_a_row(
    streak: int, failing: float
) -> None:
    container = told_by_docker(streak)
    assert container == Container(
        "a1", "vllm", "running", "unhealthy", "10:00", 600.0, 90, failing, "one 2" if streak else ""
    )


@pytest.mark.parametrize("status", ["paused", "exited", "restarting", "dead", "created"])
def test_what_does_not_run_is_left_alone(host: Host, status: str) -> None:
    healer = host.healer()
    host.is_told("healthy")
    healer.look()
    host.is_told("unhealthy", status)
    healer.look()
    assert host.restarted == []


def test_one_that_nothing_checks_is_left_alone(host: Host) -> None:
    host.is_told("")
    host.now += 10 * START_PERIOD
    host.healer().look()
    assert host.restarted == []


def hang(host: Host, healer: Healer) -> None:
    """Have the container get healthy and hang again."""
    for health in ("healthy", "unhealthy"):
        host.is_told(health)
        healer.look()


def test_it_is_given_up_for_the_rest_of_the_window_and_that_is_said_once(host: Host) -> None:
    healer = host.healer()
    for _ in range(3):
        hang(host, healer)
        host.now += 100.0
    hang(host, healer)
    healer.look()
    assert len(host.restarted) == 3
    (given_up,) = host.said[3:]
    assert given_up == (
        "vllm is unhealthy (nothing came) and was restarted 3 times within 3600 s already. It is"
        " left as it is for 3300 s: see docker logs a1"
    )
    host.now += 3299.0
    healer.look()
    assert len(host.restarted) == 3
    host.now += 2.0
    healer.look()
    assert len(host.restarted) == 4


def test_one_that_gets_healthy_by_itself_is_not_given_up_any_more(host: Host) -> None:
    healer = host.healer()
    for _ in range(4):
        hang(host, healer)
    assert healer.services["vllm"].given_up
    host.is_told("healthy")
    healer.look()
    assert not healer.services["vllm"].given_up
    assert host.said[-1] == "vllm is healthy again."


def test_restarts_that_docker_refuses_count_so_that_they_end(host: Host) -> None:
    healer = host.healer()
    host.refuses = True
    hang(host, healer)
    for _ in range(9):
        healer.look()
    assert len(host.restarted) == 3
    assert "vllm was not restarted: no" in host.said


def test_what_it_knows_outlives_a_restart_of_its_own(host: Host, tmp_path: Path) -> None:
    healer = host.healer()
    for _ in range(3):
        hang(host, healer)
    host.is_told("healthy")
    healer.look()
    file = tmp_path / "state"
    autoheal.keep(file, healer.services)
    host.is_told("unhealthy")
    host.healer(autoheal.remembered(file)).look()
    assert len(host.restarted) == 3
    assert "left as it is" in host.said[-1]


@pytest.mark.parametrize("text", ["", "[]", '{"vllm": {"of": "another version"}}', '{"vllm": 1}'])
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "state"
    file.write_text(text)
    assert autoheal.remembered(file) == {}


def test_the_metrics_tell_restarts_and_what_was_given_up(host: Host) -> None:
    healer = host.healer()
    for _ in range(4):
        hang(host, healer)
    text = autoheal.exposition("infbox", healer.services, host.containers())
    labels = '{project="infbox",service="vllm"}'
    assert f"infbox_autoheal_restarts_total{labels} 3\n" in text
    assert f"infbox_autoheal_given_up{labels} 1\n" in text
    assert f"infbox_container_unhealthy{labels} 1\n" in text
    assert "# TYPE infbox_autoheal_restarts_total counter\n" in text


def test_services_that_are_gone_are_forgotten(host: Host) -> None:
    healer = host.healer()
    healer.look()
    host.container = replace(host.container, service="caddy")
    healer.look()
    assert list(healer.services) == ["caddy"]
