"""Waiting for something on a lab host, by a clock that nobody has to wait for."""

import pytest

from lab import deployment
from lab.deployment import wait_for
from lab.shell import LabError


class Clock:
    """Stands in the place of the module `time`: sleeping takes no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deployment, "time", clock)
    return clock


@pytest.mark.parametrize("seconds", [0.2, 10, 300])
def test_what_happens_is_noticed_soon_and_not_asked_for_all_the_time(
    clock: Clock, seconds: float
) -> None:
    asked = 0

    def ask() -> float | None:
        nonlocal asked
        asked += 1
        return clock.now if clock.now >= seconds else None

    noticed = wait_for("It", ask, 400)
    assert noticed <= max(seconds * 1.06, seconds + 0.06)
    # Every twentieth of a second would have been 6,000 times.
    assert asked <= 300


def test_what_does_not_happen_is_named(clock: Clock) -> None:
    with pytest.raises(LabError, match="The sun rising did not happen within 30 s"):
        wait_for("The sun rising", lambda: None, 30)
    assert clock.now < 35
