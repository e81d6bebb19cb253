"""Quotas of one key: requests a second, rows a second, and requests at once.

Rates are counted by `limits`' sliding window, in memory or in Redis for all workers together. A worker takes a fiftieth
of a second's allowance at a time, so that most requests are counted by one subtraction, and a key that is used up asks
nobody for a while. Asking Redis is awaited, never blocks, and costs half a second at most; while Redis is down each
worker counts in memory. Requests at once are counted where they are; four times a second workers tell each other, so
that all of them together are over a limit no longer than that. This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from millrace.api_keys import Quota
from millrace.errors import RequestError, first_line
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.keys import Caller

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

SHARES = 50
"""Into how many parts a second's allowance is taken: 1/50 is how far a worker can be off."""
REDIS_SECONDS = 0.5
"""How long Redis may take to answer."""
REDIS_REST = 5.0
"""How long Redis is left alone after it did not answer."""
SHARE_SECONDS = 0.25
"""How often workers tell each other how many requests are inside."""
_KINDS = {"requests": "requests a second", "rows": "rows a second", "concurrency": "requests at once"}
_logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Quotas:
    """Lets callers in and out. Used from one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._ledger = _Ledger(settings)
        self._over = {name: metrics.over_quota.labels(name) for name in ("requests", "rows", "concurrency")}
        self._uses: dict[str, _Use] = {}

    async def enter(self, caller: Caller, rows: int) -> None:
        """Count a request of so many rows; every one that returns must be followed by `leave`.

        Raises `RequestError`: 429 beyond a quota, 413 for more rows than a whole second allows.
        """
        if self.enter_now(caller, rows):
            return
        use = self._uses[caller.id]
        use.inside += 1
        try:
            for name, allowance, cost in use.costs(rows):
                if not await allowance.take(cost, self._ledger):
                    raise self._refusal(name, allowance.limit)
        except BaseException:  # cancelled, too: who was not let in has not to leave
            use.inside -= 1
            raise

    def enter_now(self, caller: Caller, rows: int) -> bool:
        """As `enter`, but without asking for a share of the allowance: whether the request is let in. If it is not,
        nothing was counted, and `enter` must be awaited."""
        quota = caller.quota
        if quota is None:
            return True
        use = self._uses.get(caller.id)
        if use is None:
            use = self._uses[caller.id] = _Use(caller.id)
        if use.quota is not quota:
            use.limit_to(quota)
        if quota.rows_per_second and rows > quota.rows_per_second:
            what = f"This key may send at most {quota.rows_per_second:,} rows a second."
            raise RequestError(413, what, field="rows", todo="Send fewer rows a request.")
        if quota.concurrency and use.inside + use.elsewhere >= quota.concurrency:
            raise self._refusal("concurrency", quota.concurrency)
        costs, now = use.costs(rows), time.monotonic()
        for name, allowance, cost in costs:
            if allowance.is_shut(cost, now):
                raise self._refusal(name, allowance.limit)
        if not all(allowance.has(cost, now) for _, allowance, cost in costs):
            return False
        for _, allowance, cost in costs:
            allowance.use(cost)
        use.inside += 1
        return True

    def leave(self, caller: Caller) -> None:
        """A request that was let in is answered."""
        if caller.quota is not None:
            self._uses[caller.id].inside -= 1

    async def share(self) -> None:
        """Tell the other workers how many requests of each key are inside, and learn theirs; for ever, with Redis."""
        while self._ledger.is_shared:
            window = int(time.time() / SHARE_SECONDS)
            for key, use in list(self._uses.items()):
                if use.quota.concurrency:
                    await self._share(f"{key}:inside", use, window)
            await asyncio.sleep((window + 1) * SHARE_SECONDS - time.time())

    async def _share(self, name: str, use: _Use, window: int) -> None:
        """Add to this window's count, and read the one before, to which every worker has added."""
        told, use.told = use.told, (window, use.inside)
        total = await self._ledger.exchange(name, window, use.inside)
        own = told[1] if told[0] == window - 1 else 0
        use.elsewhere = max(0, total - own)

    async def close(self) -> None:
        """Give the connections to Redis back."""
        await self._ledger.close()

    def _refusal(self, name: str, limit: int) -> RequestError:
        self._over[name].inc()
        return RequestError(
            429, f"This key may send at most {limit:,} {_KINDS[name]}.",
            todo="Send it again after the seconds in Retry-After.", retry_after=1,
        )  # fmt: skip


@dataclass(slots=True)
class _Use:
    """What one key uses; one object for as long as the process lives, since who is inside holds on to it."""

    key: str
    quota: Quota = field(default_factory=Quota)
    requests: _Allowance | None = None
    rows: _Allowance | None = None
    inside: int = 0
    elsewhere: int = 0
    """Inside in the other workers, as last heard."""
    told: tuple[int, int] = (0, 0)
    """The last window told of, and what."""

    def limit_to(self, quota: Quota) -> None:
        """Have this quota from now on. Keys are read again each second: an equal one keeps what was taken."""
        if quota != self.quota:
            per_second = (("requests", quota.requests_per_second), ("rows", quota.rows_per_second))
            self.requests, self.rows = (_Allowance(f"{self.key}:{name}", n) if n else None for name, n in per_second)
        self.quota = quota

    def costs(self, rows: int) -> list[tuple[str, _Allowance, int]]:
        """What a request of so many rows takes of which allowance."""
        found = [("requests", self.requests, 1)] if self.requests is not None else []
        return [*found, ("rows", self.rows, rows)] if self.rows is not None and rows else found


class _Allowance:
    """One rate of one key: what this worker has taken of it and not used yet."""

    __slots__ = ("_ends", "_item", "_left", "_name", "_refused", "_share", "_shut", "_turn", "limit")

    def __init__(self, name: str, limit: int) -> None:
        self._name, self.limit, self._share = name, limit, max(1, limit // SHARES)
        self._item = RateLimitItemPerSecond(limit, 1, "quota")
        self._left, self._ends = 0, 0.0
        self._refused, self._shut = 0, 0.0  # so many were refused, so nobody asks for as many until then
        self._turn = asyncio.Lock()

    def has(self, cost: int, now: float) -> bool:
        """Whether so many are left of what was taken."""
        return self._left >= cost and now < self._ends

    def is_shut(self, cost: int, now: float) -> bool:
        """Whether so many were refused a moment ago."""
        return now < self._shut and cost >= self._refused

    def use(self, cost: int) -> None:
        """Count so many, which are left."""
        self._left -= cost

    async def take(self, cost: int, ledger: _Ledger) -> bool:
        """Whether so many may be used now; then they are counted."""
        async with self._turn:
            now = time.monotonic()
            if self.has(cost, now):
                self.use(cost)
                return True
            return not self.is_shut(cost, now) and await self._fetch(cost, ledger)

    async def _fetch(self, cost: int, ledger: _Ledger) -> bool:
        """Take a share, or just what is needed where that is all there is."""
        for amount in dict.fromkeys((min(max(cost, self._share), self.limit), cost)):
            if await ledger.hit(self._item, self._name, amount):
                now = time.monotonic()
                self._left, self._ends = amount + (self._left if now < self._ends else 0) - cost, now + 1.0
                return True
        wait = min(max(cost, self.limit / SHARES) / self.limit, 0.1)
        self._refused, self._shut = cost, time.monotonic() + wait
        return False


class _Ledger:
    """`limits`' counters: Redis' where the settings say so and it answers, else this process's."""

    def __init__(self, settings: Settings) -> None:
        self._memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._storage: RedisStorage | None = None
        self._pool: ConnectionPool | None = None
        self._failures: tuple[type[Exception], ...] = (OSError,)  # a TimeoutError is one
        if settings.quota_store == "redis":
            self._open_redis(settings)
        self.is_shared = self._storage is not None
        self._rests_until = 0.0
        self._told = False

    def _open_redis(self, settings: Settings) -> None:
        from redis.asyncio import ConnectionPool  # 8 MB and 0.2 s that a worker without Redis does not need
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        self._failures = (OSError, RedisError)
        self._pool = ConnectionPool.from_url(settings.redis_url, retry=Retry(NoBackoff(), 0))
        self._storage = RedisStorage(
            f"async+{settings.redis_url}",
            implementation="redispy",
            key_prefix=f"{settings.redis_prefix}:quota",
            connection_pool=self._pool,  # type: ignore[arg-type]  # its options are typed as plain values only
        )

    async def hit(self, item: RateLimitItemPerSecond, name: str, amount: int) -> bool:
        """Count so many, all or none."""
        if self._storage is not None and time.monotonic() >= self._rests_until:
            limiter = SlidingWindowCounterRateLimiter(self._storage)
            taken = await self._ask(limiter.hit(item, name, cost=amount))
            if taken is not None:
                return taken
        return await self._memory.hit(item, name, cost=amount)

    async def exchange(self, name: str, window: int, amount: int) -> int:
        """Add to the count of this window and return the whole of the one before; 0 without Redis."""
        if self._storage is None or time.monotonic() < self._rests_until:
            return 0
        if await self._ask(self._storage.incr(f"{name}:{window}", 2, amount=amount)) is None:
            return 0
        return await self._ask(self._storage.get(f"{name}:{window - 1}")) or 0

    async def _ask(self, question: Coroutine[Any, Any, Answer]) -> Answer | None:
        """Redis' answer, or None; then it is left alone for a while."""
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                answer = await question
        except self._failures as error:
            self._rests_until = time.monotonic() + REDIS_REST
            if not self._told:
                _logger.warning("Redis does not count the quotas; each worker counts alone: %s", first_line(error))
            self._told = True
            return None
        self._told = False
        return answer

    async def close(self) -> None:
        """Give the connections back."""
        if self._pool is not None:
            await self._pool.disconnect()
