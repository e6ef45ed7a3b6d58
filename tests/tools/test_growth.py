"""How a cost grows, told from a few points."""

import math

import pytest

from bench.growth.curves import Curve, exponent

SIZES = (1_000, 5_000, 20_000, 50_000, 200_000)


def curve(power: float, floor_power: float = 1.0, start: float = 0.0) -> Curve:
    found = Curve("a cost", "s", "files", "a floor")
    for size in SIZES:
        found.add(size, start + 1e-4 * size**power, 1e-5 * size**floor_power)
    return found


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_the_power(power: float) -> None:
    assert curve(power).exponent == pytest.approx(power, abs=0.1)


def test_what_a_start_costs_hides_no_square() -> None:
    squared = curve(2.0, start=1e6)
    assert squared.exponent == pytest.approx(2.0, abs=0.2)
    assert squared.is_worse_than_linear


def test_a_line_with_noise_is_no_worse_than_linear() -> None:
    noisy = Curve("a cost", "s", "files", "a floor")
    for size, noise in zip(SIZES, (1.1, 0.95, 1.0, 0.9, 1.08), strict=True):
        noisy.add(size, 1e-3 * size * noise, 1e-4 * size)
    assert not noisy.is_worse_than_linear


def test_what_grows_as_its_floor_does_is_not_blamed() -> None:
    assert not curve(1.4, floor_power=1.4).is_worse_than_linear
    assert curve(1.4, floor_power=1.0).is_worse_than_linear


def test_what_costs_the_same_at_each_size_does_not_grow() -> None:
    assert exponent([(1_000, 2.0), (5_000, 2.3), (200_000, 1.9)]) == 0


def test_one_point_says_nothing_of_growth() -> None:
    assert math.isnan(exponent([(1_000, 2.0)]))
    alone = Curve("a cost", "s", "files", "a floor", points=[(1_000, 2.0, 1.0)])
    assert alone.json()["exponent"] is None
    assert not alone.is_worse_than_linear
