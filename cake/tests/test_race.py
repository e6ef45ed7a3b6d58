"""Who meets where: the race simulated with constant speeds, and its decisions one by one."""

import pytest
from infbox_cake.race import (
    FIRST_STEP,
    Average,
    Compute,
    Load,
    Over,
    Race,
    Wait,
    run_to_stage,
)

CHUNK = 256
PREFILL = 1700.0  # tokens a second


def simulated(chunks: int, prefill: float, load: float, overhead: float = 0.0) -> tuple[float, int]:
    """Run a race to its end.

    Args:
        chunks: of the prompt, all of them on disk.
        prefill: tokens computed a second.
        load: chunks staged a second.
        overhead: seconds that each step costs besides.

    Returns:
        The seconds it took, and the tokens that were computed.
    """
    race, now, front = Race(CHUNK, 0, chunks, 0.0), 0.0, 0
    while True:
        race.staged(max(chunks - int(now * load), 0), False, now)
        decision = race.next(front, prefill, load, now)
        if isinstance(decision, Load | Over):
            return now, front
        if isinstance(decision, Wait):
            now += 0.001
        else:
            front += decision.tokens
            now += decision.tokens / prefill + overhead


@pytest.mark.parametrize("chunks", [8, 23, 62])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_it_is_not_later_than_the_better_of_both_alone(chunks: int, ratio: float) -> None:
    load = ratio * PREFILL / CHUNK
    took, _ = simulated(chunks, PREFILL, load, overhead=0.003)
    alone = min(chunks * CHUNK / PREFILL, chunks / load)
    assert took <= alone * 1.05 + 0.02


def test_equally_fast_both_do_half_of_it() -> None:
    took, computed = simulated(62, PREFILL, PREFILL / CHUNK)
    assert computed / (62 * CHUNK) == pytest.approx(0.5, abs=0.05)
    assert took <= 62 * CHUNK / PREFILL * 0.55


def test_what_is_nearly_there_is_waited_for() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    assert race.next(0, PREFILL, 200.0, now=0.0) == Wait()


def test_a_load_that_does_not_come_is_waited_for_no_longer() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    assert race.next(0, PREFILL, 200.0, now=0.2) == Wait()
    assert race.next(0, PREFILL, 200.0, now=0.3) == Compute(FIRST_STEP)


def test_the_first_load_of_all_is_waited_for_to_know_its_speed() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    assert race.next(0, PREFILL, None, now=0.0) == Wait()
    assert race.next(0, PREFILL, None, now=1.1) == Compute(FIRST_STEP)


def test_a_first_step_finds_out_how_fast_computing_is() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    assert race.next(0, None, 10.0, now=0.2) == Wait()
    race.staged(55, False, now=1.0)
    assert race.next(0, None, 10.0, now=1.1) == Compute(512)


def test_what_is_staged_is_loaded_once_it_is_reached() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    race.staged(5, False, now=0.1)
    assert isinstance(race.next(4 * CHUNK, PREFILL, 1.0, now=0.1), Compute)
    assert race.next(5 * CHUNK, PREFILL, 1.0, now=0.1) == Load(5, 8)
    assert race.next(6 * CHUNK + 17, PREFILL, 1.0, now=0.1) == Load(6, 8)


def test_what_is_staged_before_a_failure_is_loaded_and_the_rest_computed() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    race.staged(6, True, now=0.1)
    assert race.next(0, PREFILL, 1.0, now=0.1) == Compute(6 * CHUNK)
    assert race.next(6 * CHUNK, PREFILL, 1.0, now=0.1) == Load(6, 8)


def test_with_nothing_staged_and_nothing_to_come_it_is_over() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    race.staged(8, True, now=0.1)
    assert race.next(0, PREFILL, 1.0, now=0.1) == Over()


def test_past_the_end_of_what_is_stored_it_is_over() -> None:
    assert Race(CHUNK, 0, 8, now=0.0).next(8 * CHUNK, PREFILL, 1.0, now=0.0) == Over()


def test_answers_being_written_are_not_held_up_where_loading_is_as_fast() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    as_fast = PREFILL / CHUNK
    assert race.next(0, PREFILL, as_fast, now=0.0, is_crowded=True) == Wait()
    assert isinstance(race.next(0, PREFILL, as_fast / 2, now=0.0, is_crowded=True), Compute)


def test_no_step_goes_beyond_what_is_staged() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    race.staged(1, False, now=0.1)
    decision = race.next(CHUNK - 100, PREFILL, 0.1, now=0.1)
    assert decision in (Wait(), Compute(100))


@pytest.mark.parametrize(
    ("present", "first", "run"),
    [
        (b"\1\1\1\1", 0, (0, 4)),
        (b"\1\2\1\0", 0, (0, 3)),
        (b"\1\1\1\1", 2, (2, 4)),
        (b"\1\0\1\1", 0, (2, 4)),  # no prefix cache could use these
        (b"\1\1\0\0", 3, (3, 3)),
        (b"\0\0", 0, (0, 0)),
        (b"", 0, (0, 0)),
    ],
)
def test_the_last_unbroken_run_is_staged(present: bytes, first: int, run: tuple[int, int]) -> None:
    assert run_to_stage(present, first) == run


def test_the_newest_speed_weighs_most() -> None:
    average = Average(weight=0.5)
    for value in (100.0, 200.0):
        average.take(value)
    assert average.value == 150.0
