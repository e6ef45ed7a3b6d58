"""Two replicas count in one Valkey: however many ask at once, one request at most goes beyond."""

import asyncio
import contextlib
import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_apis import CHAT
from fake_engine import FakeEngine
from gateway_stack import Stack
from infbox.auth.counts import Limit, Refused
from infbox.auth.limiter import Limiter, Taken
from infbox.auth.shared_counts import SharedCounts
from infbox.config import Listen, Replicas, SharedLimits
from infbox.gateway.app import Gateway
from key_ring import Ring
from serving import free_port, serving, settings_for, until

from lab.shell import run
from tests.valkey.server import NAME, PORT, Valkey

pytestmark = pytest.mark.lab

REQUESTS = int(os.environ.get("INFBOX_LIMIT_REQUESTS", "1000"))
CLIENTS = 20
MOST = REQUESTS // 10
MINUTE, DAY = "tokens_per_minute", "tokens_per_day"
OK = 200
PATIENCE = 60.0  # that tests wait for Valkey, on whatever machine


@pytest.fixture
def valkey(certified: Valkey) -> Valkey:
    certified.start()
    until(lambda: "PONG" in cli(certified, "ping"), PATIENCE)
    return certified


def cli(_valkey: Valkey, *command: str) -> str:
    tls = ["--tls", "--cacert", "/tls/group.crt", "--cert", "/tls/group.crt"]
    told = ["valkey-cli", "-p", str(PORT), *tls, "--key", "/tls/group.key", *command]
    done = subprocess.run(
        ["docker", "exec", NAME, *told], capture_output=True, text=True, check=False
    )
    return done.stdout


def settings(valkey: Valkey) -> SharedLimits:
    return SharedLimits(Listen("127.0.0.1", PORT), valkey.folder)


def host(valkey: Valkey, name: str, seconds: float = PATIENCE) -> Limiter:
    return Limiter(SharedCounts(settings(valkey), name, seconds), seconds=0.05)


@contextlib.contextmanager
def key_service(ring: Ring, valkey: Valkey) -> Iterator[int]:
    """Run the key service as a process of its own; give its port."""
    port = free_port()
    command = [Path(sys.executable).with_name("infbox-keys"), "--digests", ring.digests, "serve",
               "--listen", f"127.0.0.1:{port}", "--shared-limits", f"127.0.0.1:{PORT}",
               "--certificates", valkey.folder, "--shared-timeout", PATIENCE]  # fmt: skip
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
    try:
        until(lambda: _is_open(port), PATIENCE)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(connection(port)) as client:
        client.connect()
        return True
    return False


def connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def test_of_many_requests_at_two_replicas_none_goes_beyond(valkey: Valkey, tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    ring.apply("ann", requests_per_minute=MOST)
    headers = {"Authorization": f"Bearer {ring.key('ann')}"}
    statuses: list[int] = []
    passed: list[tuple[float, float]] = []

    def client(port: int) -> None:
        with contextlib.closing(connection(port)) as asking:
            for _ in range(REQUESTS // CLIENTS):
                sent = time.monotonic()
                asking.request("GET", "/authorize", headers=headers)
                answer = asking.getresponse()
                answer.read()
                statuses.append(answer.status)
                if answer.status == OK:
                    passed.append((sent, time.monotonic()))

    with key_service(ring, valkey) as one, key_service(ring, valkey) as other:
        clients = [
            threading.Thread(target=client, args=[(one, other)[number % 2]])
            for number in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
    most = max(
        sum(sent >= began and answered <= began + 60 for sent, answered in passed)
        for began, _ in passed
    )
    print(f"of {len(statuses)} requests {len(passed)} passed, {most} in a minute; limit {MOST}")
    assert len(statuses) == REQUESTS
    assert set(statuses) == {OK, 429}
    assert most <= MOST <= len(passed)


def test_tokens_at_two_replicas_are_one_request_beyond_at_most(valkey: Valkey) -> None:
    largest, rng = 50, random.Random(7)  # noqa: S311
    limits = [Limit(MINUTE, MOST * 10**6), Limit(DAY, MOST * 50)]
    costs: list[int] = []

    async def client(at: Limiter) -> None:
        for _ in range(REQUESTS // CLIENTS):
            taken = await at.reserve("ann", limits, largest)
            if isinstance(taken, Taken):
                await asyncio.sleep(0)
                costs.append(rng.randint(1, largest))
                at.settle(taken, costs[-1])

    async def clients() -> dict[str, int]:
        hosts = [host(valkey, name) for name in ("gpu1", "gpu2")]
        async with hosts[0].running(), hosts[1].running():
            await asyncio.gather(*(client(hosts[number % 2]) for number in range(CLIENTS)))
            while (used := await hosts[0].used("ann", limits))[DAY] != sum(costs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return used

    began = time.monotonic()
    used = asyncio.run(clients())
    seconds = time.monotonic() - began
    most = limits[1].most
    print(f"{REQUESTS} requests in {seconds:.1f} s, {len(costs)} passed, {used}; limit {most}")
    assert most <= sum(costs) < most + largest


@contextlib.contextmanager
def gateway(folder: Path, valkey: Valkey, name: str) -> Iterator[Stack]:
    """A gateway of a replica, in front of an engine of its own."""
    (folder / name).mkdir()
    with FakeEngine().running() as engine:
        made = settings_for(folder / name, engine.url)
        shared = made.gateway._replace(shared_limits=settings(valkey))
        replicas = Replicas("http://127.0.0.1:1", name)
        app = Gateway(made._replace(gateway=shared, replicas=replicas))
        app._limiter._shared.seconds = PATIENCE  # type: ignore[union-attr]
        with serving(app.app) as url:
            yield Stack(engine, url)


def test_two_gateways_let_one_request_at_most_go_beyond(valkey: Valkey, tmp_path: Path) -> None:
    most = 6000
    may = {"X-Infbox-User": "ann", "X-Infbox-Limits": f"tokens_per_day={most}"}
    routed = {**may, "X-Infbox-Routed": "1"}

    def client(number: int, at: Stack) -> int:
        computed = 0
        for turn in range(15):
            message = {"role": "user", "content": f"{number} {turn} " + "x" * (10 * number)}
            answer = at.post(CHAT, routed, model="coder", messages=[message], max_tokens=5)
            assert answer.status in (OK, 429)
            if answer.status == OK:
                told = answer.json["usage"]
                cached = told["prompt_tokens_details"]["cached_tokens"]
                computed += told["prompt_tokens"] - cached + told["completion_tokens"]
        return computed

    with (
        gateway(tmp_path, valkey, "gpu1") as one,
        gateway(tmp_path, valkey, "gpu2") as other,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        turns = [clients.submit(client, number, (one, other)[number % 2]) for number in range(20)]
        computed = sum(turn.result() for turn in turns)
    print(f"{computed} tokens; limit {most}")
    assert most - 1000 < computed < most + 400, "the largest has some 300 tokens"


def test_a_day_that_valkey_forgot_is_told_again(valkey: Valkey) -> None:
    async def forget() -> int:
        hosts = [host(valkey, name) for name in ("gpu1", "gpu2")]
        async with hosts[0].running(), hosts[1].running():
            for at in hosts:
                await at.take("ann", [Limit(DAY, 1000)], 30)
            valkey.start()
            while True:
                used = (await hosts[0].used("ann", [Limit(DAY, 1000)]))[DAY]
                if used == 60:
                    return used
                await asyncio.sleep(0.05)

    assert asyncio.run(asyncio.wait_for(forget(), PATIENCE)) == 60


@pytest.mark.parametrize("how", ["pause", "kill"])
def test_while_valkey_is_away_each_replica_counts_by_itself(valkey: Valkey, how: str) -> None:
    async def away() -> list[object]:
        at = host(valkey, "gpu1", seconds=1.0)
        limits = [Limit(DAY, 100)]
        async with at.running():
            found: list[object] = [await at.take("ann", limits, 60)]
            await asyncio.to_thread(run, ["docker", how, NAME])
            found += [await at.take("ann", limits, 60), await at.take("ann", limits, 60)]
            return found

    try:
        first, second, third = asyncio.run(away())
    finally:
        subprocess.run(["docker", "unpause", NAME], check=False, capture_output=True)
    assert isinstance(first, Taken)
    assert isinstance(second, Taken)
    assert isinstance(third, Refused)


@contextlib.asynccontextmanager
async def slow(seconds: float) -> AsyncIterator[int]:
    """Forward to Valkey whatever comes, after a while; give the port."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(seconds)
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", PORT)
            await asyncio.gather(forward(reader, back), forward(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_a_slow_valkey_lets_nobody_wait_for_all_before_him(valkey: Valkey) -> None:
    async def ask() -> list[Taken | Refused]:
        async with slow(0.2) as port:
            there = SharedLimits(Listen("127.0.0.1", port), valkey.folder)
            at = Limiter(SharedCounts(there, "gpu1", 2.0), seconds=PATIENCE)
            async with at.running():
                await at.take("ann", [Limit(DAY, 10)], 1)
                # One after the other they take a minute and more.
                return await asyncio.gather(
                    *(at.take("ann", [Limit(DAY, 10**6)], 1) for _ in range(200))
                )

    found = [each for each in asyncio.run(ask()) if isinstance(each, Taken)]
    assert len(found) == 200
    shared = sum(bool(each.shared) for each in found)
    print(f"of 200 requests {shared} were counted in Valkey")
    assert shared < 100


def test_who_counts_may_do_nothing_else_with_the_cache(valkey: Valkey) -> None:
    as_it = ["--no-auth-warning", "--user", "infbox-limits", "--pass", "x"]
    assert "NOPERM" in cli(valkey, *as_it, "get", "piece")
    assert "NOPERM" in cli(valkey, *as_it, "hset", "piece", "field", "1")
    assert "NOPERM" in cli(valkey, *as_it, "eval", "return redis.call('DEL', KEYS[1])", "1", "a")
    assert "NOPERM" in cli(valkey, "eval", "return 1", "0"), "nor the cache's own user"
