"""The agent process: start, one per state directory, life without a control plane, ordered stop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.audit import read, verify
from agent.client import AgentClient
from agent.run import run
from agent.settings import AgentSettings
from models.errors import Broken, FibrinError, InvalidInput, Refused


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a state directory with the tokens a control plane makes, under a short path."""
    for name in ("agent", "proxy", "operator"):
        (tmp_path / f"{name}.token").write_text(f"{name}-secret\n")
    return tmp_path


def settings(directory: Path, **more: object) -> AgentSettings:
    """Return settings for an agent whose control plane is away."""
    given: dict[str, object] = {"control_url": "http://127.0.0.1:9", "port": 0, "otlp_socket": directory / "o.sock"}
    return AgentSettings(state_dir=directory, **(given | more))  # type: ignore[arg-type]


@asynccontextmanager
async def running(chosen: AgentSettings) -> AsyncIterator[asyncio.Task[None]]:
    """Run an agent until the block ends."""
    ready = asyncio.Event()
    task = asyncio.create_task(run(chosen, ready=ready))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        await task
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=10)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.02)


async def test_without_a_control_plane_the_agent_sees_and_says_so(directory: Path) -> None:
    """It starts, answers, is not ready, and tells why; on stop it leaves no address behind."""
    async with running(settings(directory)), AgentClient.from_state_dir(directory) as agent:
        assert await agent.healthy()
        assert not await agent.ready()
        status = await agent.status()
        assert status["fence"] is None
        assert not status["control_up"]
        assert "bad-version" in status["playbooks"]
        events = await agent.events(0, 3.0)
        assert any("without acting" in e.message for e in events)
        assert await agent.audit() == []
        assert (directory / "o.sock").exists()
    assert not (directory / "agent.json").exists()


async def test_a_second_agent_on_the_same_state_directory_is_refused(directory: Path) -> None:
    """Two agents on one database would act twice; the second one is told who is there."""
    async with running(settings(directory)):
        with pytest.raises(Broken, match=r"another agent \(pid \d+\) runs on"):
            await run(settings(directory, otlp_socket=directory / "p.sock"))
    async with running(settings(directory)) as task:  # and afterwards the place is free again
        assert not task.done()


async def test_a_taken_port_ends_the_start_cleanly(directory: Path) -> None:
    """The error names the port; lock, socket and address are given back."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Broken, match=f"127.0.0.1:{port} is in use"):
            await run(settings(directory, port=port))
    assert not (directory / "o.sock").exists()
    async with running(settings(directory)) as task:
        assert not task.done()


async def test_a_wrong_playbook_is_named_before_anything_starts(directory: Path) -> None:
    """File and line of the operator's mistake."""
    (directory / "mine.yaml").write_text("apiVersion: fibrin.dev/v1\nkind: Playbook\nmetadata: {name: x}\nspec: {}\n")
    with pytest.raises(InvalidInput) as caught:
        await run(settings(directory, playbooks=(directory / "mine.yaml",)))
    assert any(p.source.endswith("mine.yaml") and p.line for p in caught.value.problems)
    with pytest.raises(InvalidInput, match="cannot read the playbook"):
        await run(settings(directory, playbooks=(directory / "missing.yaml",)))


async def test_wrong_settings_never_start(directory: Path) -> None:
    """Checked before the first file is touched."""
    with pytest.raises(InvalidInput, match="cannot work"):
        await run(settings(directory, tick_s=-1.0))
    assert not (directory / "agent.db").exists()


async def test_an_unusable_audit_log_does_not_blind_the_agent(directory: Path) -> None:
    """It goes on seeing; acting is what needs the log."""
    (directory / "audit.log").mkdir()
    async with running(settings(directory)), AgentClient.from_state_dir(directory) as agent:
        assert await agent.healthy()
        assert (await agent.status())["audit_broken"]


async def test_missing_tokens_are_waited_for_then_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control plane makes them; without one the start ends with what to do."""
    monkeypatch.setattr("agent.place.TOKEN_WAIT_S", 0.2)
    (directory / "agent.token").unlink()
    with pytest.raises(FibrinError, match=r"agent\.token is missing"):
        await run(settings(directory))


async def test_a_new_key_signs_while_the_agent_writes(directory: Path) -> None:
    """Asked over the API by the operator, with a reason; the log verifies over both keys and names who asked."""
    async with running(settings(directory)):
        async with AgentClient.from_state_dir(directory) as stranger:
            with pytest.raises(Refused):
                await stranger.rotate_key("because")
            url = stranger.url
        async with AgentClient(url, token="operator-secret", actor="ada") as operator:
            with pytest.raises(InvalidInput, match="needs a reason"):
                await operator.rotate_key(" ")
            await operator.stop_acting("before")
            fresh = await operator.rotate_key("drill")
            await operator.resume_acting("after")
    records = read(directory / "audit.log")
    assert records[-1].key == fresh != records[0].key
    assert any(record.kind == "audit.key" and record.data["why"] == "drill (asked by ada)" for record in records)
    assert verify(directory / "audit.log").ok
