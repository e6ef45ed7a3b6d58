"""Hosts that answer questions about workspaces, simulated with SimPy."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, inf
from typing import Any

import numpy as np
import simpy

from .costs import Costs, Work

HOUR = 3600.0
POLICIES = ("affinity", "least", "random")
QUESTION, WARM_UP = 0, 1  # priorities: people go first
BOUND = 1.25
SETTLING = 0.2  # of the questions, which are not counted
# Beyond either, what is asked is more than can be answered, or nearly so.
MOST_LOST = 0.05
MOST_USE = 0.97
MOST_WAITING = 100  # questions, for each host

Step = Generator[Any, Any, None]


@dataclass(frozen=True)
class Result:
    """How a fleet did.

    Attributes:
        ttft: seconds to the first token, of each question that was answered.
        hit_share: of the tokens of prompts, that came from a cache.
        ram_bytes: brought from main memory, a question.
        disk_bytes: brought from disk, a question.
        use: share of the time that engines worked, the mean of all.
        busiest: the same, of the host with the most to do.
        lost: share of questions not answered at the end.
        gave_up: whether so many waited that it was not simulated to its end.
    """

    ttft: np.ndarray[Any, np.dtype[np.float64]]
    hit_share: float
    ram_bytes: float
    disk_bytes: float
    use: float
    busiest: float
    lost: float
    gave_up: bool

    @property
    def is_overloaded(self) -> bool:
        """Whether what was asked was more than could be answered."""
        return self.gave_up or self.lost > MOST_LOST or self.use > MOST_USE

    def percentile(self, share: float) -> float:
        """Return the seconds within which this share (0 to 100) of the answers began."""
        return float(np.percentile(self.ttft, share)) if len(self.ttft) else inf


@dataclass
class Counts:
    """What is counted of questions."""

    ttft: list[float] = field(default_factory=list)
    asked: int = 0
    prompt: float = 0.0
    computed: float = 0.0
    ram: float = 0.0
    disk: float = 0.0


class Cache:
    """Workspaces whose KV a host has, the one used last first: on GPUs, then in RAM, then on disk.

    Args:
        costs: say how many fit where.
    """

    def __init__(self, costs: Costs) -> None:
        sizes = (costs.gpu_bytes, costs.ram_bytes, costs.disk_bytes)
        gpu, ram, disk = (int(size // costs.pack_bytes) for size in sizes)
        self.ends = (gpu, gpu + ram, gpu + ram + disk)
        self._cached: dict[int, float] = {}  # the one used last is the last

    def place(self, workspace: int) -> int:
        """Return where a workspace is: 0 on GPUs, 1 in RAM, 2 on disk, 3 nowhere."""
        if workspace not in self._cached:
            return 3
        depth = next(n for n, cached in enumerate(reversed(self._cached)) if cached == workspace)
        return sum(depth >= end for end in self.ends)

    def seen(self, workspace: int) -> float:
        """Return up to which token written the KV of a workspace goes; -inf where there is none."""
        return self._cached.get(workspace, -inf)

    def put(self, workspace: int, seen: float) -> None:
        """Hold a workspace's KV up to a token written; what is used least goes."""
        self._cached.pop(workspace, None)
        self._cached[workspace] = seen
        while len(self._cached) > self.ends[2]:
            del self._cached[next(iter(self._cached))]

    def warm(self, workspace: int, seen: float) -> None:
        """Have it held further, where it is held at all, and as recently used as it was."""
        if workspace in self._cached:
            self._cached[workspace] = seen


class Host:
    """An engine that does one thing at a time, and what its KV comes from.

    Args:
        env: of the simulation.
        costs: of it.
    """

    def __init__(self, env: simpy.Environment, costs: Costs) -> None:
        self.engine = simpy.PriorityResource(env)
        self.links = {1: simpy.Resource(env), 2: simpy.Resource(env)}
        self.cache = Cache(costs)
        self.waiting = 0
        self.busy = 0.0


class Fleet:
    """Hosts, and who asks them.

    Args:
        costs: of each host.
        work: of all people.
        hosts: their number.
        policy: one of `POLICIES`: by workspace with bounded load, to the host with the fewest
            questions waiting, or to any.
        patience: questions that may wait at a preferred host however few the others have; as many
            as take as long as computing the pack anew elsewhere, unless given.
        seed: of all that is left to chance.
    """

    def __init__(
        self,
        costs: Costs,
        work: Work,
        hosts: int,
        policy: str,
        *,
        patience: int | None = None,
        seed: int = 1,
    ) -> None:
        self.env = simpy.Environment()
        self.hosts = [Host(self.env, costs) for _ in range(hosts)]
        self.counts = Counts()
        self._costs = costs
        self._work = work
        self._policy = policy
        self._random = random.Random(seed)  # noqa: S311  # chance, no secret
        self._numbers = np.random.default_rng(seed)
        self._weights = weights(work)
        self._summed = list(accumulate(self._weights))
        self._numbered = range(work.workspaces)
        self._written = np.zeros(work.workspaces)
        self.in_flight = 0
        self.patience = patience or ceil(costs.pack_seconds / costs.question_seconds(work))
        self._is_full = self.env.event()
        self.order = preferences(work.workspaces, hosts) if policy == "affinity" else None

    def run(self, questions: int) -> Result:
        """Simulate until so many questions were asked, a fifth of which are not counted."""
        work = self._work
        a_second = work.developers * work.questions / HOUR
        seconds = questions / a_second
        self._start_as_if_it_had_run()
        self.env.process(self._arrivals(a_second, self._ask))
        if work.saves:
            self.env.process(self._arrivals(work.developers * work.saves / HOUR, self._save))
        self._run_until(seconds * SETTLING)
        self.counts = counts = Counts()
        for host in self.hosts:
            host.busy = 0.0
        began = self.env.now
        self._run_until(seconds)
        counted = max(self.env.now - began, 1e-9)
        use = np.array([host.busy for host in self.hosts]) / counted
        answered = max(len(counts.ttft), 1)
        return Result(
            ttft=np.array(counts.ttft),
            hit_share=1 - counts.computed / counts.prompt if counts.prompt else 0.0,
            ram_bytes=counts.ram / answered,
            disk_bytes=counts.disk / answered,
            use=float(use.mean()),
            busiest=float(use.max()),
            lost=max(0.0, 1 - len(counts.ttft) / max(counts.asked, 1)),
            gave_up=self._is_full.triggered,
        )

    def _run_until(self, seconds: float) -> None:
        """Go on until then, or until too many wait."""
        end = self.env.timeout(max(0.0, seconds - self.env.now))
        if not self._is_full.triggered:
            self.env.run(until=end | self._is_full)

    def choose(self, workspace: int) -> Host:
        """Return who answers a question about a workspace."""
        if self._policy == "random":
            return self._random.choice(self.hosts)
        if self.order is None:
            fewest = min(host.waiting for host in self.hosts)
            return self._random.choice([host for host in self.hosts if host.waiting == fewest])
        bound = max(self.patience, ceil(BOUND * (self.in_flight + 1) / len(self.hosts)))
        preferred = (self.hosts[number] for number in self.order[workspace])
        return next(host for host in preferred if host.waiting < bound)

    def _arrivals(self, a_second: float, begin: Any) -> Step:
        """Begin something for a workspace, at random times."""
        while True:
            yield self.env.timeout(self._random.expovariate(a_second))
            begin(self._random.choices(self._numbered, cum_weights=self._summed)[0])

    def _ask(self, workspace: int) -> None:
        self.env.process(self._answer(self.choose(workspace), workspace, self.counts))
        if self.in_flight > MOST_WAITING * len(self.hosts) and not self._is_full.triggered:
            self._is_full.succeed()

    def _save(self, workspace: int) -> None:
        self._written[workspace] += self._work.tail_tokens
        if self.order is not None:  # the watcher of the host that questions go to
            self.env.process(self._warm_up(self.hosts[self.order[workspace][0]], workspace))

    def _answer(self, host: Host, workspace: int, counts: Counts) -> Step:
        costs, work, began = self._costs, self._work, self.env.now
        counts.asked += 1
        host.waiting += 1
        self.in_flight += 1
        yield from self._bring(host, workspace, counts)
        with host.engine.request(QUESTION) as turn:
            yield turn
            missing = self._missing(host, workspace)
            host.cache.put(workspace, self._written[workspace])
            computed = missing + work.question_tokens
            yield from self._busy(host, computed / costs.prefill)
        host.waiting -= 1
        self.in_flight -= 1
        counts.ttft.append(self.env.now - began)
        counts.prompt += costs.pack_tokens + work.question_tokens
        counts.computed += computed
        with host.engine.request(QUESTION) as turn:
            yield turn
            yield from self._busy(host, work.answer_tokens / costs.decode)

    def _bring(self, host: Host, workspace: int, counts: Counts) -> Step:
        """Load what is not on the GPUs; other questions are answered meanwhile."""
        place = host.cache.place(workspace)
        if place not in host.links:
            return
        moved = (self._costs.pack_tokens - self._missing(host, workspace)) * self._costs.kv_bytes
        if place == 1:
            counts.ram += moved
        else:
            counts.disk += moved
        host.cache.put(workspace, host.cache.seen(workspace))
        speed = self._costs.ram_speed if place == 1 else self._costs.disk_speed
        with host.links[place].request() as turn:
            yield turn
            yield self.env.timeout(moved / speed)

    def _warm_up(self, host: Host, workspace: int) -> Step:
        """Compute a tail, once nobody waits."""
        with host.engine.request(WARM_UP) as turn:
            yield turn
            missing = self._missing(host, workspace)
            if missing < self._costs.pack_tokens:  # else the next question brings it back
                host.cache.warm(workspace, self._written[workspace])
                yield from self._busy(host, missing / self._costs.prefill)

    def _busy(self, host: Host, seconds: float) -> Step:
        yield self.env.timeout(seconds)
        host.busy += seconds

    def _missing(self, host: Host, workspace: int) -> float:
        """Return how many tokens of a pack a host has no KV of."""
        behind = self._written[workspace] - host.cache.seen(workspace)
        return float(min(behind, self._costs.pack_tokens))

    def _start_as_if_it_had_run(self) -> None:
        """Fill caches as they would be: each host holds what it was asked for last."""
        work = self._work
        rates = np.array(self._weights) * work.developers * work.questions / HOUR
        tails = np.array(self._weights) * work.developers * work.saves / HOUR * work.tail_tokens
        placements = [row[0] for row in self.order] if self.order is not None else None
        for number, host in enumerate(self.hosts):
            mine = (
                rates / len(self.hosts)
                if placements is None
                else rates * (np.array(placements) == number)
            )
            with np.errstate(divide="ignore"):
                ages = self._numbers.exponential(size=len(rates)) / mine
            cached = [one for one in np.argsort(ages) if np.isfinite(ages[one])]
            for workspace in reversed(cached[: host.cache.ends[2]]):
                behind = 0.0 if placements is not None else ages[workspace] * tails[workspace]
                host.cache.put(int(workspace), -float(behind))


def weights(work: Work) -> list[float]:
    """Return the share of all questions that is about each workspace."""
    shares = [1 / (number + 1) ** work.skew for number in range(work.workspaces)]
    total = sum(shares)
    return [share / total for share in shares]


def preferences(workspaces: int, hosts: int) -> list[list[int]]:
    """Return for each workspace its hosts, the preferred first, by rendezvous hashing.

    One host more or less moves only the workspaces that are, or were, its own.
    """
    numbers = np.random.default_rng(7).integers(0, 2**63, size=2)
    scores = mixed(
        np.arange(workspaces, dtype=np.uint64)[:, None] * np.uint64(numbers[0])
        ^ np.arange(hosts, dtype=np.uint64)[None, :] * np.uint64(numbers[1])
    )
    orders: list[list[int]] = np.argsort(scores, axis=1, kind="stable").tolist()
    return orders


def mixed(values: Any) -> Any:
    """Return numbers that look like chance: the end of MurmurHash3."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))
