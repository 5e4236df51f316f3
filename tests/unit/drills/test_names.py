"""Looking up names over real UDP: what a name server says, and what it does not."""

from __future__ import annotations

import pytest

from simulations.drills.names import How, NameServer
from simulations.shop.names import Resolver, question, read_question, sidecar

ADDRESSES = {"storefront-v1-1": "127.1.2.3"}
NAME = sidecar("storefront-v1-1")


async def test_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of an application gets the address that the name server knows; a name that nobody knows is an OSError."""
    monkeypatch.setattr("simulations.shop.names.ANSWER_S", 5.0)
    server = NameServer(ADDRESSES)
    port = await server.start("127.0.0.1")
    try:
        resolver = Resolver(("127.0.0.1", port))
        (found,) = await resolver.resolve(NAME, 15001)
        assert (found["host"], found["port"], found["hostname"]) == ("127.1.2.3", 15001, NAME)
        with pytest.raises(OSError, match="code 3"):
            await resolver.resolve(sidecar("nobody"), 1)
    finally:
        server.stop()


@pytest.mark.parametrize(("how", "why"), [("failing", "code 2"), ("unknown", "code 3"), ("silent", "no answer")])
async def test_a_drill_decides_what_is_said(how: How, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVFAIL, NXDOMAIN and silence each end a look-up with OSError, silence after asking twice; then all is well again."""
    monkeypatch.setattr("simulations.shop.names.ANSWER_S", 5.0 if how != "silent" else 0.05)
    server = NameServer(ADDRESSES)
    port = await server.start("127.0.0.1")
    try:
        server.trouble["storefront-v1-1"] = how
        with pytest.raises(OSError, match=why):
            await Resolver(("127.0.0.1", port)).resolve(NAME)
        assert server.asked == (2 if how == "silent" else 1)
        server.trouble.clear()
        monkeypatch.setattr("simulations.shop.names.ANSWER_S", 5.0)
        assert await Resolver(("127.0.0.1", port)).resolve(NAME)
    finally:
        server.stop()


@pytest.mark.parametrize("packet", [b"", b"\0" * 12, question(1, "a.b")[:-1], question(1, "a.b")[:14], b"\xff" * 40])
def test_what_is_no_question_is_refused(packet: bytes) -> None:
    """A truncated or foreign packet is a ValueError, never another error."""
    with pytest.raises(ValueError, match="not a query"):
        read_question(packet)


def test_a_question_says_what_was_asked() -> None:
    """The name and the number come back, and no name that cannot be asked for is."""
    found = read_question(question(513, NAME))
    assert (found.number, found.name) == (513, NAME)
    with pytest.raises(ValueError, match="no host name"):
        question(1, "a..b")
