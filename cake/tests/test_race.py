"""Who meets where: the race simulated with constant speeds, and its decisions one by one."""

import math

import pytest
from infbox_cake.race import (
    ALONE_STEP,
    AT_ONCE,
    AT_ONCE_ALONE,
    LEAST_PATIENCE,
    LEAST_STEP,
    ON_GPU,
    STALL_FACTOR,
    Average,
    Compute,
    Load,
    Over,
    Prefill,
    Race,
    Wait,
    loads_at_once,
    run_to_stage,
)

from bench.cake_paper import simulation

CHUNK = 256
PREFILL = 1700.0  # tokens a second
VLLM_STEP = 2048  # tokens that vLLM computes at once where it is left alone


def simulated(
    chunks: int, prefill: float, load: float, overhead: float = 0.0, *, comes: bool = True
) -> tuple[float, int]:
    """Run a race with constant speeds; return the seconds it took and the tokens computed."""
    speeds = simulation.Speeds(1 / prefill, load, budget=VLLM_STEP, overhead=overhead)
    return simulation.race(speeds, chunks, CHUNK, prefill, comes=comes)


@pytest.mark.parametrize("chunks", [8, 23, 62])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("prefill", "overhead"), [(PREFILL, 0.003), (700.0, 0.08)])
def test_it_is_not_later_than_the_better_of_both_alone(
    chunks: int, ratio: float, prefill: float, overhead: float
) -> None:
    load = ratio * prefill / CHUNK
    took, _ = simulated(chunks, prefill, load, overhead)
    steps = math.ceil(chunks * CHUNK / VLLM_STEP)
    alone = min(chunks * CHUNK / prefill + steps * overhead, chunks / load)
    assert took <= alone * 1.05 + 0.02


@pytest.mark.parametrize("chunks", [8, 23, 62])
@pytest.mark.parametrize("ratio", [3.0, 10.0])
def test_a_disk_that_stalls_costs_little_more_than_computing_and_the_wait(
    chunks: int, ratio: float
) -> None:
    prefill, overhead = 700.0, 0.08
    load = ratio * prefill / CHUNK
    took, computed = simulated(chunks, prefill, load, overhead, comes=False)
    assert computed == chunks * CHUNK
    wait = max(STALL_FACTOR * AT_ONCE / load, LEAST_PATIENCE)
    assert took <= 1.05 * (chunks * CHUNK / prefill + overhead) + wait


def test_equally_fast_both_do_half_of_it() -> None:
    took, computed = simulated(62, PREFILL, PREFILL / CHUNK)
    assert computed / (62 * CHUNK) == pytest.approx(0.5, abs=0.05)
    assert took <= 62 * CHUNK / PREFILL * 0.55


def test_what_is_nearly_there_is_waited_for() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    assert race.next(0, PREFILL, 200.0, now=0.0) == Wait()


def test_a_load_that_does_not_come_is_waited_for_no_longer() -> None:
    race = Race(CHUNK, 0, 16, now=0.0)
    # Computing all of it would take 2.4 s, a fifth of which is 0.48 s.
    assert race.next(0, PREFILL, 200.0, now=0.47) == Wait()
    assert race.next(0, PREFILL, 200.0, now=0.5) == Compute(2560)
    race.staged(15, False, now=0.6)
    assert race.next(0, PREFILL, 200.0, now=0.7) == Wait()


def test_a_load_that_does_not_come_until_all_is_computed_is_given_up() -> None:
    race = Race(CHUNK, 0, 16, now=0.0)
    assert race.next(2048, PREFILL, 200.0, now=0.6) == Over()
    # What has come is used, once what lies before it is computed.
    race.staged(15, False, now=0.7)
    assert race.next(2048, PREFILL, 200.0, now=1.4) == Compute(15 * CHUNK - 2048)


def test_a_long_prompt_waits_no_longer_than_a_burst_takes() -> None:
    race = Race(CHUNK, 0, 1000, now=0.0)
    assert race.next(0, PREFILL, 200.0, now=LEAST_PATIENCE - 0.01) == Wait()
    assert isinstance(race.next(0, PREFILL, 200.0, now=LEAST_PATIENCE + 0.01), Compute)


def test_answers_that_are_written_meanwhile_are_held_up_by_short_steps_alone() -> None:
    race = Race(CHUNK, 0, 1000, now=0.0)
    assert race.next(0, PREFILL, 200.0, now=0.6, is_crowded=True) == Compute(ALONE_STEP)


def test_what_is_late_is_expected_to_be_as_late_again() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    race.staged(7, False, now=1.0)
    left = CHUNK / PREFILL
    front = 6 * CHUNK
    assert race.next(front, PREFILL, 1.0, now=2.0 + 0.9 * left) == Wait()
    assert race.next(front, PREFILL, 1.0, now=2.0 + 1.1 * left) == Compute(CHUNK)


def test_the_last_bit_is_left_to_vllm_once_nothing_comes() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    assert race.next(6 * CHUNK, PREFILL, 200.0, now=0.4) == Over()


@pytest.mark.parametrize("burst", [2, 3])
def test_a_disk_that_gives_in_bursts_has_not_stalled(burst: int) -> None:
    """Ten times as fast as computing on a CPU, it gives some chunks and then none for a while."""
    race, prefill, load = Race(CHUNK, 0, 8, now=0.0), 640.0, 25.0
    for chunks in range(8, 0, -burst):
        race.staged(chunks, False, now=(8 - chunks) / load)
        assert race.next(0, prefill, load, now=(8 - chunks + burst) / load - 0.001) == Wait()


def test_chunks_that_are_read_all_at_once_are_waited_for_together() -> None:
    """The first of four that share the disk may come no sooner than the last."""
    prefill, load = 640.0, 10.0
    alone, few = (Race(CHUNK, 0, 31, 0.0, at_once) for at_once in (AT_ONCE_ALONE, AT_ONCE))
    assert alone.next(0, prefill, load, now=0.7) == Wait()
    assert isinstance(few.next(0, prefill, load, now=0.7), Compute)
    assert isinstance(alone.next(0, prefill, load, now=0.9), Compute)


def test_many_are_read_at_once_where_nothing_is_computed_meanwhile() -> None:
    as_fast = PREFILL / CHUNK
    assert loads_at_once(CHUNK, PREFILL, 2.1 * as_fast) == AT_ONCE_ALONE
    assert loads_at_once(CHUNK, PREFILL, 1.9 * as_fast) == AT_ONCE
    assert loads_at_once(CHUNK, PREFILL, None) == AT_ONCE
    assert loads_at_once(CHUNK, None, 2.1 * as_fast) == AT_ONCE


def test_a_disk_from_which_not_even_two_chunks_would_come_is_left_at_once() -> None:
    race = Race(CHUNK, 0, 8, now=0.0)
    takes = 8 * CHUNK / PREFILL
    assert race.next(0, PREFILL, 1.9 / takes, now=0.0) == Over()
    assert isinstance(race.next(0, PREFILL, 2.1 / takes, now=0.0), Compute)


def test_a_disk_that_would_save_less_than_a_wrong_guess_costs_is_left_at_once() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    as_fast = PREFILL / CHUNK
    assert race.next(0, PREFILL, 0.1 * as_fast, now=0.0) == Over()
    assert isinstance(race.next(0, PREFILL, 0.3 * as_fast, now=0.0), Compute)


def test_what_is_staged_already_is_used_although_the_disk_has_become_slow() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    race.staged(60, False, now=0.1)
    assert isinstance(race.next(0, PREFILL, 0.1 * PREFILL / CHUNK, now=0.1), Compute)


def test_a_disk_that_is_twice_as_fast_as_computing_is_left_alone() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    as_fast = PREFILL / CHUNK
    assert race.next(0, PREFILL, 2.1 * as_fast, now=0.0) == Wait()
    assert isinstance(race.next(0, PREFILL, 1.9 * as_fast, now=0.0), Compute)


def test_on_a_gpu_a_load_is_left_alone_and_left_out_only_where_less_than_a_tenth_is_saved() -> None:
    as_fast = PREFILL / CHUNK

    def first(ratio: float) -> object:
        return Race(CHUNK, 0, 62, now=0.0, worth=ON_GPU).next(0, PREFILL, ratio * as_fast, now=0.0)

    assert first(9.1) == Wait()
    assert isinstance(first(8.9), Compute)
    assert isinstance(first(0.12), Compute)
    assert first(0.11) == Over()
    assert loads_at_once(CHUNK, PREFILL, 8.9 * as_fast, ON_GPU) == AT_ONCE
    assert loads_at_once(CHUNK, PREFILL, 9.1 * as_fast, ON_GPU) == AT_ONCE_ALONE


def test_while_a_speed_is_not_known_short_steps_are_computed_and_nothing_waits() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    assert race.next(0, PREFILL, None, now=0.0) == Compute(LEAST_STEP)
    assert race.next(LEAST_STEP, None, 10.0, now=0.2) == Compute(LEAST_STEP)


def test_a_first_load_of_all_that_does_not_come_leaves_long_steps_to_computing() -> None:
    race = Race(CHUNK, 0, 62, now=0.0)
    assert race.next(LEAST_STEP, PREFILL, None, now=LEAST_PATIENCE) == Compute(ALONE_STEP)


def test_less_than_a_chunk_is_not_computed_since_it_is_loaded_all_the_same() -> None:
    race, load = Race(CHUNK, 0, 8, now=0.0), 1.9 * PREFILL / CHUNK
    race.staged(2, False, now=0.1)
    assert race.next(0, PREFILL, load, now=0.1) == Wait()
    # Half of the chunk is computed already, and the other half is worth it.
    assert isinstance(race.next(CHUNK // 2, PREFILL, load, now=0.1), Compute)


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
    assert average.value == pytest.approx(math.sqrt(100 * 200))


def test_a_speed_that_was_measured_for_long_weighs_as_many() -> None:
    long, often = Average(), Average()
    for average in (long, often):
        average.take(100.0)
    long.take(200.0, times=3)
    for _ in range(3):
        often.take(200.0)
    assert long.value == pytest.approx(often.value)


def test_a_disk_that_became_slow_is_found_out_as_soon_as_one_that_became_fast() -> None:
    slower, faster = Average(), Average()
    for value in (100.0, 1.0, 1.0):
        slower.take(value)
        faster.take(100 / value)
    assert slower.value is not None
    assert faster.value is not None
    assert 100 / slower.value == pytest.approx(faster.value)


def test_a_prompt_is_as_fast_as_its_part_of_a_step() -> None:
    alone, beside = Prefill(), Prefill()
    alone.step([512], 0.5)
    beside.step([256, 256], 0.5)
    assert alone.value == pytest.approx(1024)
    assert beside.value == pytest.approx(512)


def test_a_step_with_an_answer_or_a_short_one_tells_no_speed() -> None:
    prefill = Prefill()
    for tokens in ([512, 1], [LEAST_STEP - 1], []):
        prefill.step(tokens, 0.5)
    assert prefill.value is None
