"""The simulation, held against what is known in closed form."""

from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest

from bench.scale.costs import Costs, Work, preset_costs
from bench.scale.fleet import BOUND, Cache, Fleet, Host, preferences

# A host that reads 1,000 tokens a second, and has room for all packs.
COSTS = Costs(prefill=1000, decode=1e12, kv_bytes=1, pack_tokens=10_000, gpu_bytes=1e12,
              ram_bytes=0, disk_bytes=0)  # fmt: skip
# 100 people who ask one question a second together, all alike, and save nothing.
WORK = Work(100, questions=36, saves=0, question_tokens=700, answer_tokens=0, skew=0)


def work(**changes: Any) -> Work:
    return replace(WORK, **changes)


@pytest.mark.parametrize(("load", "hosts"), [(0.5, 1), (0.8, 1), (0.7, 4)])
def test_one_that_reads_at_a_constant_speed_lets_wait_as_m_d_1(load: float, hosts: int) -> None:
    # At random over hosts, each has a Poisson stream of its own.
    service = load * hosts
    asked = work(question_tokens=round(1000 * service))
    result = Fleet(COSTS, asked, hosts, "random").run(15_000)
    waiting = load * service / (2 * (1 - load))
    assert result.ttft.mean() == pytest.approx(service + waiting, rel=0.06)
    assert result.use == pytest.approx(load, rel=0.03)


def test_a_pack_that_is_always_there_leaves_the_question_to_compute() -> None:
    result = Fleet(COSTS, WORK, 3, "affinity").run(2000)
    assert result.hit_share == pytest.approx(10_000 / 10_700)
    assert result.ram_bytes == result.disk_bytes == 0


def test_without_room_everything_is_computed() -> None:
    result = Fleet(replace(COSTS, gpu_bytes=0, prefill=1e5), WORK, 1, "affinity").run(2000)
    assert result.hit_share == 0
    assert result.ttft.min() == pytest.approx(10_700 / 1e5)


@pytest.mark.parametrize("room", [10, 30])
def test_of_packs_that_are_all_alike_those_hit_that_have_room(room: int) -> None:
    costs = replace(COSTS, gpu_bytes=room * 10_000, prefill=1e6)
    asked = work(per_workspace=2, question_tokens=1)  # 50 workspaces
    result = Fleet(costs, asked, 1, "random").run(8_000)
    assert result.hit_share == pytest.approx(room / 50, rel=0.04)


def test_what_a_host_missed_is_what_was_written_since_it_was_asked() -> None:
    # Gaps between questions about a workspace at a host are exponential.
    asked = work(saves=36, tail_tokens=500, question_tokens=1)
    hosts = 5
    result = Fleet(replace(COSTS, prefill=1e6), asked, hosts, "random").run(12_000)
    written, gaps = 1 / asked.workspaces * 500, asked.workspaces * hosts  # tokens a second, seconds
    missed = written * gaps * (1 - exp(-10_000 / (written * gaps)))
    assert 1 - result.hit_share == pytest.approx(missed / 10_000, rel=0.05)


def test_a_tail_is_computed_before_anybody_asks_where_it_is_known_who_will_be_asked() -> None:
    asked = work(saves=36, tail_tokens=500)
    costs = replace(COSTS, prefill=1e5)
    known, unknown = (Fleet(costs, asked, 5, name).run(4000) for name in ("affinity", "least"))
    assert known.hit_share > 0.93 > unknown.hit_share
    assert known.percentile(95) < unknown.percentile(50)


def test_what_comes_from_ram_and_disk_takes_its_time_and_is_counted() -> None:
    costs = replace(COSTS, gpu_bytes=0, ram_bytes=1e6, ram_speed=1e4, prefill=1e9)
    alone = work(developers=20, questions=1, question_tokens=1)
    result = Fleet(costs, alone, 1, "affinity").run(200)
    assert result.ram_bytes == pytest.approx(10_000)
    assert result.percentile(50) == pytest.approx(1.0, abs=0.01)
    disk = replace(costs, ram_bytes=0, disk_bytes=1e6, disk_speed=1e4)
    result = Fleet(disk, alone, 1, "affinity").run(200)
    assert result.ram_bytes == 0
    assert result.disk_bytes == pytest.approx(10_000)


def test_what_cannot_be_answered_is_called_overload() -> None:
    assert Fleet(COSTS, work(question_tokens=1500), 1, "random").run(2000).is_overloaded
    assert not Fleet(COSTS, work(question_tokens=500), 1, "random").run(2000).is_overloaded


def test_the_same_seed_gives_the_same() -> None:
    first, again, other = (
        Fleet(COSTS, work(saves=36), 4, "affinity", seed=seed).run(500).ttft for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])


def test_a_host_more_takes_workspaces_and_moves_no_other() -> None:
    before = [order[0] for order in preferences(3000, 20)]
    after = [order[0] for order in preferences(3000, 21)]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {20}
    assert len(moved) == pytest.approx(3000 / 21, rel=0.25)
    assert np.bincount(after, minlength=21).min() > 3000 / 21 * 0.7


def test_no_host_is_given_more_than_its_bound_and_the_preferred_has_it_until_then() -> None:
    fleet = Fleet(COSTS, WORK, 10, "affinity")
    given: list[Host] = []
    for _ in range(100):
        given.append(fleet.choose(0))
        given[-1].waiting += 1
        fleet.in_flight += 1
    assert given[: fleet.patience] == [given[0]] * fleet.patience
    # 10 s for a pack, 0.7 s for a question.
    assert fleet.patience == 15
    assert max(host.waiting for host in fleet.hosts) <= max(fleet.patience, BOUND * 100 / 10 + 1)
    assert sum(host.waiting for host in fleet.hosts) == 100


def test_a_cache_gives_up_what_was_used_longest_ago() -> None:
    cache = Cache(replace(COSTS, gpu_bytes=10_000, ram_bytes=20_000, disk_bytes=10_000))
    for workspace in range(5):
        cache.put(workspace, 0)
    assert [cache.place(workspace) for workspace in range(5)] == [3, 2, 1, 1, 0]
    cache.warm(1, 7)
    assert (cache.place(1), cache.seen(1)) == (2, 7)


def test_presets_cost_what_the_planner_says() -> None:
    costs = preset_costs("moe80")
    assert (costs.kv_bytes, costs.pack_tokens) == (98_304, 64_000)
    assert costs.gpu_bytes == pytest.approx(442_027 * 98_304)
    assert costs.prefill == pytest.approx(25_610, rel=0.01)
    assert Cache(costs).ends == (6, 16, 55)
