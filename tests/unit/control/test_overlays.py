"""Overlays and the fence in virtual time: leases end, stale writers are refused, people beat automation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from control.changes import ChangeLog
from control.fencing import Fences
from control.overlays import OverlayBook, Wanted
from control.settings import ControlSettings
from control.store import Put
from models.errors import Conflict, InvalidInput, NotFound, Refused
from models.overlay import Overlay, Owner, SetTimeout


class Clock(Protocol):
    """The virtual clock."""

    unix: float

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    def pass_(self, seconds: float) -> None: ...


class Desk:
    """A book of overlays with its fence."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.changes = ChangeLog(clock, keep=100)
        self.fences = Fences(clock)
        self.book = OverlayBook(clock, self.changes, self.fences, ControlSettings(Path("/nowhere")))

    def lay(self, name: str, *, owner: Owner = Owner.PERSON, fence: int = 0, lease_s: float = 30.0) -> Overlay:
        """Lay a timeout."""
        wanted = Wanted(name, SetTimeout("cart", 1.0), "because", lease_s, owner, "x", fence=fence)
        overlay = self.book.propose(wanted)
        assert overlay is not None
        self.book.lay(overlay)
        return overlay


@pytest.fixture
def desk(clock: Clock) -> Desk:
    """An empty book in virtual time."""
    return Desk(clock)


def test_a_lease_ends_by_itself(desk: Desk) -> None:
    """An overlay nobody renews is gone after its lease, and is told as a change."""
    desk.lay("o", lease_s=10)
    desk.clock.pass_(9.9)
    assert desk.book.sweep() == ()
    desk.clock.pass_(0.2)
    assert desk.book.sweep()
    assert desk.book.all == ()
    assert desk.changes.since(0).changes[-1].message.endswith("its lease ran out")


def test_renewal_counts_from_now(desk: Desk) -> None:
    """A renewed lease runs from the moment of renewal."""
    desk.lay("o", lease_s=10)
    desk.clock.pass_(8)
    overlay, _ = desk.book.renew("o", 10, owner=Owner.PERSON, fence=0)
    desk.clock.pass_(8)
    desk.book.sweep()
    assert desk.book.get("o") == overlay
    assert overlay.expires_at == pytest.approx(desk.clock.wall() + 2)


def test_a_jump_of_the_wall_clock_ends_nothing(desk: Desk) -> None:
    """Leases run on the monotonic clock."""
    desk.lay("o", lease_s=10)
    desk.clock.unix += 86_400
    desk.book.sweep()
    assert [o.id for o in desk.book.all] == ["o"]


def test_over_a_restart_the_wall_clock_counts_bounded_by_the_lease(desk: Desk) -> None:
    """What expired while we were down ends at the first sweep; a clock set back does not make a lease eternal."""
    overlay = desk.lay("o", lease_s=10)
    put = desk.book.lay(overlay)[0]
    assert isinstance(put, Put)
    desk.clock.pass_(20)
    late = Desk(desk.clock)
    late.book.restore({"o": put.body})
    assert late.book.sweep()
    desk.clock.unix -= 1_000_000
    early = Desk(desk.clock)
    early.book.restore({"o": put.body})
    desk.clock.pass_(11)
    assert early.book.sweep()


def test_a_stale_fence_is_refused_everywhere(desk: Desk) -> None:
    """After a change of holder the former one can neither lay nor renew nor remove."""
    first, _ = desk.fences.acquire("one", 5)
    desk.lay("o", owner=Owner.AGENT, fence=first.fence)
    desk.clock.pass_(6)
    second, _ = desk.fences.acquire("two", 5)
    assert second.fence == first.fence + 1
    for call in (
        lambda: desk.lay("p", owner=Owner.AGENT, fence=first.fence),
        lambda: desk.book.renew("o", 5, owner=Owner.AGENT, fence=first.fence),
        lambda: desk.book.delete("o", owner=Owner.AGENT, fence=first.fence, actor="one"),
    ):
        with pytest.raises(Conflict, match="stale"):
            call()
    desk.book.delete("o", owner=Owner.AGENT, fence=second.fence, actor="two")
    assert desk.book.all == ()


def test_an_agent_without_a_fence_writes_nothing(desk: Desk) -> None:
    """Fence 0 is for people only."""
    with pytest.raises(Conflict):
        desk.lay("o", owner=Owner.AGENT, fence=0)


def test_the_fence_is_held_renewed_and_survives(desk: Desk) -> None:
    """A living holder keeps others out, renews under the same number, and a restart forgets neither."""
    fence, writes = desk.fences.acquire("one", 5)
    with pytest.raises(Conflict, match="held by one"):
        desk.fences.acquire("two", 5)
    desk.clock.pass_(4)
    assert desk.fences.acquire("one", 5)[0].fence == fence.fence
    put = writes[0]
    assert isinstance(put, Put)
    again = Fences(desk.clock)
    again.restore({put.key: put.body})
    with pytest.raises(Conflict):
        again.acquire("two", 5)
    desk.clock.pass_(6)
    assert again.acquire("two", 5)[0].fence == fence.fence + 1


def test_people_beat_automation(desk: Desk) -> None:
    """An agent can neither remove nor renew what a person laid, and a person's is in force beside it."""
    fence = desk.fences.acquire("one", 60)[0].fence
    agents = desk.lay("a", owner=Owner.AGENT, fence=fence)
    desk.lay("p")
    assert desk.book.winner(agents).id == "p"
    with pytest.raises(Refused, match="people beat automation"):
        desk.book.delete("p", owner=Owner.AGENT, fence=fence, actor="one")
    desk.book.delete("a", owner=Owner.PERSON, fence=0, actor="me")
    assert [o.id for o in desk.book.all] == ["p"]


def test_an_id_is_an_idempotency_key(desk: Desk) -> None:
    """The same id with the same change is the same overlay; with another change it is a conflict."""
    desk.lay("o")
    same = Wanted("o", SetTimeout("cart", 1.0), "because", 30.0, Owner.PERSON, "x")
    assert desk.book.propose(same) is None
    with pytest.raises(Conflict, match="another change"):
        desk.book.propose(Wanted("o", SetTimeout("cart", 2.0), "because", 30.0, Owner.PERSON, "x"))


@pytest.mark.parametrize("lease_s", [0.0, -1.0, 4000.0, float("nan"), float("inf")])
def test_leases_have_bounds(desk: Desk, lease_s: float) -> None:
    """No lease is endless, none is over before it begins."""
    fence = desk.fences.acquire("one", 60)[0].fence
    with pytest.raises(InvalidInput, match="lease_s"):
        desk.lay("o", owner=Owner.AGENT, fence=fence, lease_s=lease_s)


def test_what_is_gone_is_not_found(desk: Desk) -> None:
    """Renewing or removing an ended overlay says so."""
    with pytest.raises(NotFound):
        desk.book.renew("o", 5, owner=Owner.PERSON, fence=0)
