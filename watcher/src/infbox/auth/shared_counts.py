"""What users have used, on all replicas together: in the Valkey that they share a cache by.

The clock is Valkey's, so that the hosts' own need not agree. A minute is one count of all. Of a day
each host writes down its own sum, which it knows: what Valkey forgot, since it is a cache or was
started again, is there again within a minute.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from infbox.auth.counts import DAY, PERIODS, Limit, Places, Refused
from infbox.log import line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from infbox.config import SharedLimits

USER = "infbox-limits"
"""That Valkey lets do with these counts, and nothing else, what is done here."""

PREFIX = "infbox:limits:"

_SECONDS = 1.0
AWAY_SECONDS = 2.0
"""For which nobody asks a Valkey again that was away."""

# Of each limit: seconds of a piece, pieces, most, and of a day its number and what this host has
# counted before, or -1 twice. Nothing is counted where any limit is used up.
_TAKE = """
local host, cost, clock = ARGV[1], tonumber(ARGV[2]), redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local worst, wait, used, pieces, fields, owns = 0, 0, 0, {}, {}, {}
local function given(number, which) return tonumber(ARGV[5 * number - 3 + which]) end
for number, key in ipairs(KEYS) do
  local seconds, count = given(number, 1), given(number, 2)
  local most, day = given(number, 3), given(number, 4)
  local piece, held, sum, order = math.floor(now / seconds), {}, 0, {}
  local is_daily = day >= 0
  pieces[number] = piece
  fields[number] = is_daily and piece .. ':' .. host or tostring(piece)
  local all = redis.call('HGETALL', key)
  local own = 0
  for each = 1, #all, 2 do
    local begun = tonumber(string.match(all[each], '^%d+'))
    if begun > piece or begun <= piece - count then
      redis.call('HDEL', key, all[each])
    elseif is_daily and all[each] == fields[number] then
      own = tonumber(all[each + 1])
    else
      held[begun] = (held[begun] or 0) + tonumber(all[each + 1])
    end
  end
  if is_daily then
    if day == piece then own = given(number, 5) end
    owns[number] = own
    held[piece] = (held[piece] or 0) + own
  end
  for begun, value in pairs(held) do
    sum = sum + value
    order[#order + 1] = begun
  end
  sum = math.max(sum, 0) -- what Valkey forgot may be given back
  if sum >= most then
    table.sort(order)
    local left, over = sum, now
    for _, begun in ipairs(order) do
      left, over = left - held[begun], (begun + count) * seconds
      if left < most then break end
    end
    if over - now >= wait then worst, wait, used = number, over - now, sum end
  end
end
for number, key in ipairs(KEYS) do
  if owns[number] then
    redis.call('HSET', key, fields[number], owns[number] + (worst == 0 and cost or 0))
  elseif worst == 0 then
    redis.call('HINCRBY', key, fields[number], cost)
  end
  redis.call('EXPIRE', key, given(number, 1) * given(number, 2))
end
table.insert(pieces, 1, used)
table.insert(pieces, 1, math.max(math.ceil(wait), 1))
table.insert(pieces, 1, worst)
return pieces
"""

# Nothing comes back that is over, and no sum of another day.
_CHANGE = """
for number, key in ipairs(KEYS) do
  if redis.call('HEXISTS', key, ARGV[2 * number - 1]) == 1 then
    redis.call('HINCRBY', key, ARGV[2 * number - 1], ARGV[2 * number])
  end
end
"""
_WRITE = """
local day = math.floor(tonumber(redis.call('TIME')[1]) / 86400)
if day == tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], ARGV[3])
  redis.call('EXPIRE', KEYS[1], 86400)
end
"""

_logger = logging.getLogger(__name__)


class AwayError(Exception):
    """The counts cannot be had now."""


class Own(NamedTuple):
    """What a host has counted of a day by itself.

    Attributes:
        day: its number.
        sum: of it.
    """

    day: int
    sum: int


class Place(NamedTuple):
    """Where something of a minute was counted.

    Attributes:
        user: whose it is.
        name: of the limit.
        piece: of time.
    """

    user: str
    name: str
    piece: int


class SharedCounts:
    """The counts of all hosts.

    Used by one task at a time, so that what Valkey is told comes there in order.

    Args:
        settings: where Valkey is, and by which certificate it is known and knows us.
        host: the name of this one among them.
        seconds: that an answer may take, and that a request waits for it and for those before it.
    """

    def __init__(self, settings: SharedLimits, host: str, seconds: float = _SECONDS) -> None:
        from valkey import asyncio as valkey  # noqa: PLC0415  # 0.1 s that few need
        from valkey.exceptions import ValkeyError  # noqa: PLC0415

        self._failures = OSError, TimeoutError, ValueError, ValkeyError
        self._make = valkey.Valkey
        self._settings = settings
        self._host = host
        self.seconds = seconds
        self._client: Any = None
        self._away_until = 0.0
        self._reason = ""

    def check_there(self) -> None:
        """Raise AwayError where Valkey was away just now, and is not asked."""
        if time.monotonic() < self._away_until:
            raise AwayError(self._reason)

    def note_slow(self) -> AwayError:
        """Have nobody ask for a while, since a request waited too long for those before it."""
        self._note(f"requests waited {self.seconds:g} s for their turn")
        return AwayError(self._reason)

    async def take(
        self,
        user: str,
        limits: Iterable[Limit],
        cost: int,
        own: Mapping[str, Own],
        until: float | None = None,
    ) -> Places | Refused:
        """Count what a request costs, as ``Counts.take`` does.

        Args:
            user: whose it is.
            limits: of the user.
            cost: of the request.
            own: of limits by the day, what this host counted.
            until: the monotonic time until which the request waits, in seconds; None for
                as long as an answer may take.

        Raises:
            AwayError: Valkey does not answer.
        """
        limits = list(limits)
        told: list[str | int] = [self._host, cost]
        for limit in limits:
            period = PERIODS[limit.name]
            mine = own[limit.name] if period is DAY else (-1, -1)
            told += [period.seconds, period.pieces, limit.most, *mine]
        keys = [_key(user, limit.name) for limit in limits]
        worst, seconds, used, *pieces = await self._run(_TAKE, keys, told, until)
        if worst:
            return Refused(limits[worst - 1], used, seconds)
        return {limit.name: piece for limit, piece in zip(limits, pieces, strict=True)}

    async def change(self, changes: Mapping[Place, int], until: float | None = None) -> None:
        """Change what was counted of minutes; ``until`` as for ``take``.

        Raises:
            AwayError: Valkey does not answer.
        """
        keys = [_key(place.user, place.name) for place in changes]
        told = [number for place, by in changes.items() for number in (place.piece, by)]
        await self._run(_CHANGE, keys, told, until)

    async def write(self, user: str, name: str, own: Own) -> None:
        """Write down what this host counted of a day.

        Raises:
            AwayError: Valkey does not answer.
        """
        await self._run(_WRITE, [_key(user, name)], [own.day, self._host, own.sum])

    async def used(
        self,
        user: str,
        limits: Iterable[Limit],
        own: Mapping[str, Own],
        until: float | None = None,
    ) -> list[int]:
        """Return how much of limits is used, in their order; ``until`` as for ``take``.

        Raises:
            AwayError: Valkey does not answer.
        """
        found = []
        for limit in limits:  # a limit of nothing is used up, and says by how much
            answer = await self.take(user, [limit._replace(most=0)], 0, own, until)
            assert isinstance(answer, Refused)  # noqa: S101
            found.append(answer.used)
        return found

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _run(
        self,
        script: str,
        keys: list[str],
        told: Iterable[str | int],
        until: float | None = None,
    ) -> Any:
        self.check_there()
        left = self.seconds if until is None else max(until - time.monotonic(), 0)
        try:
            with anyio.fail_after(min(left, self.seconds)):
                self._client = self._client or self._connection()
                answer = await self._client.eval(script, len(keys), *keys, *told)
        except self._failures as error:
            await self._note_away(str(error) or type(error).__name__)
            raise AwayError(self._reason) from error
        if self._reason and time.monotonic() >= self._away_until:
            _logger.info(line("limits-shared-again", valkey=self._settings.address))
            self._reason = ""
        return answer

    def _connection(self) -> Any:
        directory = self._settings.certificates
        return self._make(
            host=self._settings.address.host,
            port=self._settings.address.port,
            username=USER,
            password=USER,  # Valkey asks for none, and looks at the certificate
            single_connection_client=True,
            ssl=True,
            ssl_certfile=str(directory / "group.crt"),
            ssl_keyfile=str(directory / "group.key"),
            ssl_ca_certs=str(directory / "group.crt"),
            # The only one that is trusted is the one that all of them have.
            ssl_check_hostname=False,
            lib_name=None,
            lib_version=None,
        )

    async def _note_away(self, reason: str) -> None:
        # What it says later must not be taken for the answer to something else.
        await self.close()
        self._note(reason)

    def _note(self, reason: str) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not self._reason:
            hint = "each host counts by itself until then; check that Valkey runs"
            at = self._settings.address
            _logger.warning(line("limits-not-shared", valkey=at, reason=reason, hint=hint))
        self._reason = reason


def _key(user: str, name: str) -> str:
    return f"{PREFIX}{name}:{user}"
