"""Plays one fault twice, on real sidecars and in the simulator, under the same agent."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.telemetry.views import view
from models.frame import Frame
from models.signals import Outcomes, Series
from simulations.drills import suite
from simulations.drills.loading import library
from simulations.drills.objectives import loosest, well_again
from simulations.drills.schema import Drill
from simulations.drills.seen import WINDOW_S, Sample
from simulations.drills.verdict import Verdict
from simulations.journal import Record
from simulations.likeness.curves import AFTER_S, Curve, Run, compare
from simulations.likeness.twin import shop
from simulations.load import OBJECTIVE_S
from simulations.simulator.faults import Fault, InstanceSlow, ServiceDown, VersionErrors
from simulations.simulator.plant import Ended, failed
from simulations.simulator.world import TICK_S, World, open_world

LEARN_S: Final = 25.0
"""A simulated mesh runs for this long before its fault, a real one as long as drills let it learn."""


_OK, _ERROR = 200, 503


@dataclass(frozen=True, slots=True)
class Pair:
    """A drill, the same fault for the simulator, and the services whose golden signals are compared."""

    drill: str
    fault: Fault
    services: tuple[str, ...]


PAIRS: Final = (
    Pair("bad-version", VersionErrors("catalog", "v2", 0.2), ("catalog", "storefront")),
    Pair("bad-instance", InstanceSlow("cart-v1-2", 10.0), ("cart", "storefront")),
    Pair("dependency-down", ServiceDown("recommendation"), ("recommendation", "storefront")),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One fault on both sides."""

    pair: Pair
    real: Run
    simulated: Run
    curves: tuple[Curve, ...]


async def play(pairs: Sequence[Pair], seed: int, tell: Callable[[str, str], None]) -> tuple[Compared, ...]:
    """Play every pair; `tell` hears what happens on the real mesh: (kind, words). About a minute for all three.

    Raises:
        Broken: the real mesh did not come up, or fell. InvalidInput: its steady state did not hold.
    """
    drills = {drill.name: drill for drill in library()}
    wanted = [drills[pair.drill] for pair in pairs]
    real: dict[str, Run] = {}
    async for verdict in suite.play(wanted, suite.Wishes(seed=seed), tell):
        real[verdict.seen.drill.name] = on_sidecars(verdict)
    found = []
    for pair in pairs:
        simulated = await in_the_simulator(pair.fault, drills[pair.drill], seed)
        found.append(Compared(pair, real[pair.drill], simulated, compare(real[pair.drill], simulated, pair.services)))
    return tuple(found)


def on_sidecars(verdict: Verdict) -> Run:
    """Return a drill as it was seen."""
    seen, cause = verdict.seen, verdict.incident.cause if verdict.incident is not None else None
    return Run(
        onset=seen.onset,
        records=seen.records,
        samples=seen.samples,
        detected_s=verdict.detected_s,
        acted_s=verdict.acted_s,
        mitigated_s=verdict.mitigated_s,
        cause=str(cause or ""),
    )


async def in_the_simulator(fault: Fault, drill: Drill, seed: int) -> Run:
    """Let the agent heal the simulated shop, and return how it went."""
    async with open_world(shop(drill.spec.mesh.rate), seed=seed) as world:
        watch = _Watch(world)
        for _ in range(round(LEARN_S / TICK_S)):
            await watch.tick()
        onset = world.clock.now
        await world.begin(fault)
        for _ in range(round(AFTER_S / TICK_S)):
            await watch.tick()
        return watch.run(onset, loosest(drill.spec.steady_state))


class _Watch:
    """Looks at a simulated mesh as drills look at a real one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._recent: deque[Frame] = deque(maxlen=round(WINDOW_S / TICK_S))
        self._records: list[Record] = []
        self._samples: list[Sample] = []

    async def tick(self) -> None:
        world = self._world
        ended = await world.step()
        self._users(ended)
        self._recent.append(world.telemetry.report(ended))
        sums: dict[Series, Outcomes] = defaultdict(Outcomes)
        for frame in self._recent:
            for series, outcomes in frame.items():
                sums[series] += outcomes
        seen = view(sums, (), at=world.clock.now, window_s=WINDOW_S)
        self._samples.append(Sample(seen.at, {each.service: each.golden for each in seen.services}))

    def _users(self, ended: Ended) -> None:
        requests, now = ended.requests, self._world.clock.now
        theirs = self._world.plant.layout.of_users(requests.call)
        for seconds, bad in zip(requests.seconds[theirs].tolist(), failed(requests)[theirs].tolist(), strict=True):
            missed = bad or seconds > OBJECTIVE_S
            self._records.append(Record(0.0, now - seconds, "", _ERROR if bad else _OK, seconds, missed))

    def run(self, onset: float, good: float) -> Run:
        """Return what was seen; users are well when the share `good` of their requests met the objective."""
        world = self._world
        incidents = sorted((i for i in world.loop.incidents if i.opened_at >= onset), key=lambda i: i.opened_at)
        laid = [o.created_at - onset for o in world.control.laid if o.created_at >= onset]
        return Run(
            onset=onset,
            records=tuple(self._records),
            samples=tuple(self._samples),
            detected_s=incidents[0].opened_at - onset if incidents else None,
            acted_s=min(laid, default=None),
            mitigated_s=well_again(self._records, onset, world.clock.now, good),
            cause=str(incidents[0].cause or "") if incidents else "",
        )
