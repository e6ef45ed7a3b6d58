"""The client of Valkey, in front of a real one that is frozen, killed, restarted and full."""

import select
import time
from collections.abc import Callable, Iterator

import pytest
from infbox_cake import shared
from infbox_cake.valkey import SECONDS, ValkeyClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from lab import engine
from tests.valkey.server import NAME, Valkey

pytestmark = pytest.mark.lab

KEYS = [f"piece{number}" for number in range(16)]
PIECE = bytes(range(256)) * 400
# What is under way when Valkey goes, and the moment until the next sign of life is missed.
WAITS = 2 * SECONDS + 0.5
AT_ONCE = 0.2
BACK = 4 * SECONDS


@pytest.fixture
def valkey(certified: Valkey) -> Valkey:
    certified.start()
    return certified


@pytest.fixture
def client(valkey: Valkey) -> Iterator[ValkeyClient]:
    client = valkey.client()
    wait(client, is_there=True)
    yield client
    client.close()


def wait(client: ValkeyClient, *, is_there: bool) -> None:
    ends = time.monotonic() + BACK
    while client.is_there != is_there:
        assert time.monotonic() < ends
        time.sleep(0.01)


def done(client: ValkeyClient, begin: Callable[[], int], within: float) -> list[bool]:
    """Return what a task said of each key; it took no longer than it may."""
    number = begin()
    assert select.select([client.event_fd()], [], [], within)[0], "it waits"
    ((told, _, _, each),) = client.drain_completions()
    assert told == number
    return each or []


def look(client: ValkeyClient, within: float = WAITS) -> list[bool]:
    return done(client, lambda: client.submit_batch_exists(KEYS), within)


def write(client: ValkeyClient, within: float = WAITS) -> list[bool]:
    pieces = [memoryview(bytearray(PIECE)) for _ in KEYS]
    return done(client, lambda: client.submit_batch_set(KEYS, pieces), within)


def read(client: ValkeyClient, within: float = WAITS) -> list[bool]:
    buffers = [bytearray(len(PIECE)) for _ in KEYS]
    views = [memoryview(buffer) for buffer in buffers]
    each = done(client, lambda: client.submit_batch_get(KEYS, views), within)
    assert [buffer == PIECE for buffer in buffers] == each
    return each


def test_what_was_written_is_found_and_read_as_it_was(client: ValkeyClient) -> None:
    assert not any(look(client))
    assert all(write(client))
    assert all(look(client))
    assert all(read(client))


def test_one_finds_what_the_other_wrote(valkey: Valkey, client: ValkeyClient) -> None:
    write(client)
    other = valkey.client()
    wait(other, is_there=True)
    assert all(read(other))
    other.close()


def test_a_piece_that_went_after_it_was_found_is_missing_and_costs_nothing_else(
    client: ValkeyClient,
) -> None:
    write(client)
    gone = KEYS[3]
    assert done(client, lambda: client.submit_batch_delete([gone]), WAITS) == [True]
    assert read(client) == [key != gone for key in KEYS]
    assert client.is_there


def test_a_piece_of_another_length_is_missing(client: ValkeyClient) -> None:
    write(client)
    short = memoryview(bytearray(10))
    assert done(client, lambda: client.submit_batch_get(KEYS[:1], [short]), WAITS) == [False]
    wait(client, is_there=True)
    assert all(read(client))


def test_a_valkey_that_is_frozen_costs_a_moment_once_and_is_found_again(
    client: ValkeyClient,
) -> None:
    write(client)
    with engine.frozen(NAME):
        assert not any(look(client))
        for ask in (look, read, write):
            assert not any(ask(client, within=AT_ONCE))
    wait(client, is_there=True)
    assert all(read(client))


def test_one_that_was_restarted_is_found_again_and_is_empty(
    valkey: Valkey, client: ValkeyClient
) -> None:
    write(client)
    valkey.remove()
    wait(client, is_there=False)
    assert not any(look(client, within=AT_ONCE))
    valkey.start()
    wait(client, is_there=True)
    assert not any(look(client))
    assert all(write(client))
    assert all(read(client))
    assert client.is_there


def test_one_that_is_away_at_the_start_is_used_once_it_comes(certified: Valkey) -> None:
    certified.remove()
    client = certified.client()
    assert not any(look(client, within=AT_ONCE))
    certified.start()
    wait(client, is_there=True)
    assert all(write(client))
    client.close()


def test_it_is_told_whether_it_answers(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    told = InMemoryMetricReader()
    provider = MeterProvider([told])
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    tier = valkey.client(kind=shared.SharedTier)
    wait(tier, is_there=True)
    assert gauges(told) == {"infbox_shared_cache_up": 1}
    valkey.remove()
    wait(tier, is_there=False)
    assert gauges(told) == {"infbox_shared_cache_up": 0}
    tier.close()
    provider.shutdown()


def gauges(told: InMemoryMetricReader) -> dict[str, float]:
    """Return the value of each gauge by its name."""
    data = told.get_metrics_data()
    assert data is not None
    return {
        metric.name: metric.data.data_points[0].value  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_who_has_another_certificate_does_without(valkey: Valkey) -> None:
    client = valkey.client(shows="other")
    time.sleep(2 * SECONDS)
    assert not client.is_there
    assert not any(write(client, within=AT_ONCE))
    client.close()
