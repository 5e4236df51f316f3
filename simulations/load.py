"""Users: an open-loop stream of shopping journeys that never waits for the shop.

Sessions arrive as a Poisson process; each browses home, looks at products, maybe fills a cart and checks out, with
exponential thinking times between its steps. The whole schedule follows from a seed alone, so two runs with one seed send
the same requests at the same moments, however the shop feels. Latency counts from the moment a request was *due*
(no co-ordinated omission). A request misses its objective when it fails (no answer, HTTP ≥ 500) or takes too long.

Runs as its own process, `python -m simulations.load`, sends through the users' sidecar, and writes one JSON line per
request to a journal that others tail (`simulations.journal`).
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from simulations.journal import Journal, Record
from simulations.shop import trouble
from simulations.shop.goods import PRODUCTS
from simulations.shop.spec import ENTRY

OBJECTIVE_S = 0.25
"""A user's request is good when answered below HTTP 500 within this time."""

GIVE_UP_S = 5.0
"""After this a user goes away: no answer."""

MAX_IN_FLIGHT = 2000
"""Beyond this a due request is not sent but recorded as missed (`capped`): the generator's own limit, never silent."""

THINK_S = 0.8
"""Mean thinking time between the steps of a session."""

LOOK_AT_ANOTHER, FILL_CART, CHECK_OUT = 0.5, 0.45, 0.6
"""Odds that a user looks at one more product, then fills the cart, then checks out."""

STEPS_PER_SESSION = 1 + 1 / (1 - LOOK_AT_ANOTHER) + FILL_CART * (1 + CHECK_OUT)
"""Expected requests of one session: one home, products (geometric), carts and checkouts by their odds."""


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """One request of the schedule: `at` seconds after its start."""

    at: float
    session: int
    step: int
    name: str
    method: str
    path: str


def _journey(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield the (name, method, path) steps of one session: home, products, maybe cart, maybe checkout."""
    yield ("home", "GET", "/")
    product = 0
    while product == 0 or rng.random() < LOOK_AT_ANOTHER:
        product = rng.choice(PRODUCTS)[0]
        yield ("product", "GET", f"/product/{product}")
    if rng.random() < FILL_CART:
        yield ("add-to-cart", "POST", f"/cart/{product}")
        if rng.random() < CHECK_OUT:
            yield ("checkout", "POST", "/checkout")


def schedule(seed: int, rate: float, start: float = 0.0) -> Iterator[Due]:
    """Yield requests in order of time, without end: `rate` per second on average from the first second on.

    Sessions begin a few thinking times before 0 so that the mix is in its steady state at once; requests before `start`
    (seconds) are passed over, so a run may begin in the middle of another run's schedule. Raises ValueError for a
    rate that is not positive.
    """
    if rate <= 0:
        raise ValueError(f"the rate must be positive, is {rate}")
    rng = random.Random(seed)
    waiting: list[Due] = []
    arrival, session = -12 * THINK_S, 0
    while True:
        arrival += rng.expovariate(rate / STEPS_PER_SESSION)
        while waiting and waiting[0].at <= arrival:
            due = heapq.heappop(waiting)
            if due.at >= start:
                yield due
        session += 1
        at = arrival
        for step, (name, method, path) in enumerate(_journey(rng)):
            if at >= 0:
                heapq.heappush(waiting, Due(at, session, step, name, method, path))
            at += rng.expovariate(1 / THINK_S)


def hot(seed: int, rate: float, product: int) -> Iterator[Due]:
    """Yield requests for one product without end: a Poisson process of `rate` per second."""
    rng = random.Random(seed)
    at, number = 0.0, 0
    while True:
        at += rng.expovariate(rate)
        number += 1
        yield Due(at, number, 0, "product", "GET", f"/product/{product}")


def herd(size: int, every_s: float) -> Iterator[Due]:
    """Yield `size` requests for the home page at once, every `every_s` seconds, without end."""
    for number in itertools.count():
        for member in range(size):
            yield Due(number * every_s, number, member, "home", "GET", "/")


@dataclass(frozen=True, slots=True)
class Config:
    """One run of the generator: `rate` requests per second through `proxy` ("" sends straight to `target`).

    `product` > 0: everybody wants this one; `herd` > 0: so many come at once, every `every_s` seconds. A request that
    fails is sent again at once, up to `retries` times.
    """

    target: str
    proxy: str
    rate: float
    seed: int
    start: float
    objective_s: float
    journal: Path
    product: int = 0
    retries: int = 0
    herd: int = 0
    every_s: float = 2.0

    def due(self) -> Iterator[Due]:
        """Return what to send, in order of time."""
        if self.herd:
            return herd(self.herd, self.every_s)
        if self.product:
            return hot(self.seed, self.rate, self.product)
        return schedule(self.seed, self.rate, self.start)


class Generator:
    """Sends what is due and records what users saw."""

    def __init__(self, config: Config, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._flying: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, then wait for what is in flight (at most `GIVE_UP_S`)."""
        timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began_wall, began = time.time(), time.monotonic()
            self._journal.began(began_wall, self._config.start)
            for due in self._config.due():
                if await _stopped(stop, began + due.at - self._config.start - time.monotonic()):
                    break
                sent = began_wall + due.at - self._config.start
                if len(self._flying) >= MAX_IN_FLIGHT:
                    self._journal.add(Record(due.at, sent, due.name, 0, 0.0, missed=True, trouble=(), note="capped"))
                    continue
                task = asyncio.create_task(self._send(session, due, sent), name=f"user-{due.session}-{due.step}")
                self._flying.add(task)
                task.add_done_callback(self._flying.discard)
            if self._flying:
                await asyncio.wait(self._flying, timeout=GIVE_UP_S)

    async def _send(self, session: aiohttp.ClientSession, due: Due, sent: float) -> None:
        for again in range(self._config.retries + 1):
            status, blame, note = await self._once(session, due)
            failed = status == 0 or status >= trouble.SERVER_ERROR
            latency = time.time() - sent
            missed = failed or latency > self._config.objective_s
            note = note or (f"retry {again}" if again else "")
            self._journal.add(Record(due.at, sent, due.name, status, latency, missed, tuple(sorted(blame)), note))
            if not failed:
                return
            sent = time.time()

    async def _once(self, session: aiohttp.ClientSession, due: Due) -> tuple[int, frozenset[str], str]:
        headers = {"x-user": f"user-{due.session}"}
        try:
            async with session.request(
                due.method, self._config.target + due.path, proxy=self._config.proxy or None, headers=headers
            ) as response:
                await response.read()
                return response.status, trouble.of_answer(ENTRY, response.status, response.headers), ""
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, frozenset({ENTRY}), type(error).__name__


async def _stopped(stop: asyncio.Event, wait_s: float) -> bool:
    """Wait until `wait_s` from now or until `stop`; return whether it is time to stop."""
    if wait_s <= 0:
        return stop.is_set()
    try:
        async with asyncio.timeout(wait_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def _main(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    journal = Journal(config.journal)
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(journal.write_until_closed(), name="journal")
        try:
            await Generator(config, journal).run(stop)
        finally:
            journal.close()
            await writer


def main() -> None:
    """Send until SIGTERM or SIGINT; a journal that cannot be written is a clear error with exit code 1."""
    parser = argparse.ArgumentParser(prog="simulations.load", description="Open-loop users of the shop.")
    parser.add_argument("--target", default=f"http://{ENTRY}")
    parser.add_argument("--proxy", default="", help="URL of the users' sidecar (outbound)")
    parser.add_argument("--rate", type=float, default=70.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="start", type=float, default=0.0, help="begin at this second of the schedule")
    parser.add_argument("--objective", type=float, default=OBJECTIVE_S, help="seconds within which a request is good")
    parser.add_argument("--journal", type=Path, required=True, help="file for one JSON line per request")
    parser.add_argument("--product", type=int, default=0, help="everybody wants this product")
    parser.add_argument("--retries", type=int, default=0, help="how often a failed request is sent again at once")
    parser.add_argument("--herd", type=int, default=0, help="this many users at once, every --every seconds")
    parser.add_argument("--every", type=float, default=2.0)
    options = parser.parse_args()
    config = Config(
        target=options.target,
        proxy=options.proxy,
        rate=options.rate,
        seed=options.seed,
        start=options.start,
        objective_s=options.objective,
        journal=options.journal,
        product=options.product,
        retries=options.retries,
        herd=options.herd,
        every_s=options.every,
    )
    try:
        asyncio.run(_main(config))
    except OSError as error:
        print(f"load: {error}; choose another journal", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
