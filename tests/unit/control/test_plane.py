"""The process around the API: one per state directory, clear refusals, orderly ends, restarts that change nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from control.client import ControlClient
from control.observer import progress
from control.plane import ControlSettings, serving
from control.statedir import StateDir
from control.xds.status import Propagation as Progress
from models.domain import Health, Instance
from models.errors import Broken, Conflict, InvalidInput, Unavailable
from models.overlay import SetTimeout, ShiftTraffic

Make = Callable[..., Instance]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_progress_tells_the_words_of_those_that_refused() -> None:
    """A propagation names who refused with what it said, also when it said nothing."""
    found = progress(
        Progress(7, sidecars=4, acked=1, nacked=("a", "b"), pending=("c",), words={"a": "no such cluster"})
    )
    assert (found.generation, found.sidecars, found.acked, found.nacked) == (7, 4, 1, 2)
    assert found.refusals == ("a: no such cluster", "b: refused")


async def test_the_state_directory_is_private_and_tells_where_we_are(settings: ControlSettings) -> None:
    """Mode 0700, tokens and sockets 0600, control.json while we live and not after."""
    path = settings.state_dir
    async with serving(settings) as (_, url):
        assert path.stat().st_mode & 0o777 == 0o700
        for name in ("operator.token", "agent.token", "proxy.token", "control.db", "xds.sock", "control.json"):
            assert (path / name).stat().st_mode & 0o777 == 0o600, name
        assert json.loads((path / "control.json").read_text())["url"] == url
        tokens = {(path / f"{role}.token").read_text() for role in ("operator", "agent", "proxy")}
        assert len(tokens) == 3
    assert not (path / "control.json").exists()
    async with serving(settings):
        assert {(path / f"{role}.token").read_text() for role in ("operator", "agent", "proxy")} == tokens


async def test_two_on_one_state_directory_is_a_conflict(settings: ControlSettings) -> None:
    """The second control plane says who has the directory, and harms nothing."""
    async with serving(settings) as (plane, url):
        with pytest.raises(Conflict, match=r"another control plane runs on .*process"):
            async with serving(settings):
                pass
        assert plane.ready
        async with ControlClient(url) as client:
            assert await client.healthy()


async def test_a_leaf_that_would_end_before_it_is_renewed_is_refused(settings: ControlSettings) -> None:
    """A lifetime below what rotation needs is an error that says so, not a silent five seconds."""
    with pytest.raises(InvalidInput) as caught:
        async with serving(replace(settings, leaf_lifetime_s=2.0)):
            pass
    assert "control.leaf_lifetime_s: must be at least 5, found 2.0" in str(caught.value.problems[0])


async def test_a_port_in_use_is_told(settings: ControlSettings) -> None:
    """A port in use is Broken with what next, and leaves the directory free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = replace(settings, port=taken.getsockname()[1])
        with pytest.raises(Broken, match="the port is in use") as caught:
            async with serving(busy):
                pass
        assert "--port" in caught.value.hint
        assert not (settings.state_dir / "control.json").exists()
    async with serving(busy) as (plane, _):
        assert plane.ready


async def test_settings_that_cannot_work_are_refused_first(settings: ControlSettings) -> None:
    """Every bad setting is named before anything is made."""
    with pytest.raises(InvalidInput) as caught:
        async with serving(replace(settings, port=70_000, floor=2.0, sweep_s=0)):
            pass
    assert [p.field for p in caught.value.problems] == ["control.sweep_s", "control.floor", "control.port"]
    assert not settings.state_dir.exists()


async def test_a_corrupt_database_is_told(settings: ControlSettings) -> None:
    """Garbage in control.db is Broken with what next, and the directory is free again."""
    settings.state_dir.mkdir()
    (settings.state_dir / "control.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Broken, match=r"control\.db"):
        async with serving(settings):
            pass
    StateDir.take(settings.state_dir).release()


async def test_an_empty_token_file_is_told(settings: ControlSettings) -> None:
    """A token file without a token would let everybody in; it is refused."""
    settings.state_dir.mkdir()
    (settings.state_dir / "agent.token").write_text("\n")
    with pytest.raises(Broken, match="holds no token"):
        async with serving(settings):
            pass


async def test_a_restart_restores_everything(settings: ControlSettings, make: Make, routes: str) -> None:
    """Resources, instances with their health, overlays, fence, edges and sequence are as before; nothing is told anew."""
    async with serving(settings) as (plane, _), ControlClient.from_state_dir(settings.state_dir) as client:
        for instance in (make("a"), make("b"), make("c", version="v2"), make("d")):
            await client.register(instance)
            await client.heartbeat(instance.id)
        await client.drain("d")
        await client.heartbeat("b", healthy=False)
        await client.apply({"r.yaml": routes})
        await client.create_overlay(ShiftTraffic("catalog", {"v1": 1}), reason="x", lease_s=60, overlay_id="one")
        async with ControlClient.from_state_dir(settings.state_dir, "agent") as agent:
            fence = await agent.acquire_fence("agent-1", 60)
        before = (await client.topology(), await client.services(), await client.overlays(), await client.resources())
        sequence = (await client.changes()).next
        assert plane.ready
    async with serving(settings) as (plane, _), ControlClient.from_state_dir(settings.state_dir) as client:
        after = (await client.topology(), await client.services(), await client.overlays(), await client.resources())
        assert after == before
        assert {i.id: i.health for i in after[0].instances}["d"] is Health.DRAINING
        assert (await client.changes()).next == sequence
        assert plane.fences.current.fence == fence.fence


async def test_what_expired_while_we_were_down_is_gone(settings: ControlSettings, make: Make) -> None:
    """An overlay whose lease ended during the downtime is never in a world again."""
    async with serving(settings), ControlClient.from_state_dir(settings.state_dir) as client:
        await client.register(make("a"))
        await client.create_overlay(SetTimeout("catalog", 1), reason="x", lease_s=0.2)
    await asyncio.sleep(0.25)
    async with serving(settings) as (plane, _):
        assert plane.overlays.all == ()
        assert plane.service("catalog").effective == plane.service("catalog").declared


async def test_silence_is_noticed_for_real(fast: ControlSettings, make: Make) -> None:
    """With real clocks: the one that stops beating is lost, its service tells so."""
    async with serving(fast) as (plane, _), ControlClient.from_state_dir(fast.state_dir) as client:
        for name in "abc":
            await client.register(make(name))
            await client.heartbeat(name)

        async def beat() -> None:
            while True:
                for name in "ab":
                    await client.heartbeat(name)
                await asyncio.sleep(0.05)

        beating = asyncio.create_task(beat())
        try:
            await until(lambda: {i.id: i.health for i in plane.registry.instances}["c"] is Health.LOST)
        finally:
            beating.cancel()
        assert [i.id for i in plane.registry.instances if i.health is Health.HEALTHY] == ["a", "b"]


async def test_watchers_end_with_the_control_plane(settings: ControlSettings) -> None:
    """An open stream and a long poll do not hold up the end; the watcher learns that we are away."""
    async with serving(settings) as (_, url):
        client = ControlClient(url)
        await client.__aenter__()
        stream = client.watch_topology()
        await anext(stream)
        polling = asyncio.create_task(client.changes((await client.changes()).next, wait_s=30))
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2.0
    with pytest.raises(Unavailable):
        await anext(stream)
    assert (await polling).changes == ()
    await client.close()


async def test_a_failing_reconciliation_keeps_the_last_world(
    settings: ControlSettings, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error nobody foresaw in one round leaves the sidecars what they have, and the next change tries again."""
    async with serving(settings) as (plane, _), ControlClient.from_state_dir(settings.state_dir) as client:
        await client.register(make("a"))
        assert plane._ads is not None
        generation = plane._ads.generation

        def fail(_: object) -> int:
            raise RuntimeError("unforeseen")

        with monkeypatch.context() as patched:
            patched.setattr(plane._ads, "set_world", fail)
            await client.register(make("b"))
            assert plane._ads.generation == generation
        await client.register(make("c"))
        assert len((await client.topology()).instances) == 3
        assert plane._ads.generation == generation + 1
