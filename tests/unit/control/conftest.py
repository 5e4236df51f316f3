"""Virtual time, settings in a temporary directory, a running control plane and its client."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from control.client import ControlClient, Role
from control.plane import ControlPlane, ControlSettings, serving
from models.domain import Health, Instance

ROUTES = textwrap.dedent("""\
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata:
      name: catalog
      annotations:
        fibrin.dev/fallback: '{"status": 200, "body": "[]", "contentType": "application/json"}'
    spec:
      hosts: [catalog]
      http:
        - route:
            - destination: {host: catalog, subset: v1}
              weight: 90
            - destination: {host: catalog, subset: v2}
              weight: 10
          timeout: 2s
    ---
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata:
      name: catalog
    spec:
      host: catalog
      subsets:
        - name: v1
          labels: {version: v1}
        - name: v2
          labels: {version: v2}
    """)


@dataclass(slots=True)
class VirtualClock:
    """Time that moves when told to; the wall may be moved apart from the monotonic clock."""

    now: float = 1000.0
    unix: float = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.unix

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds


Make = Callable[..., Instance]
Dial = Callable[[Role | None], AbstractAsyncContextManager[ControlClient]]


@pytest.fixture
def clock() -> VirtualClock:
    """Virtual time."""
    return VirtualClock()


@pytest.fixture
def settings(tmp_path: Path) -> ControlSettings:
    """Settings on a fresh state directory and a free port."""
    return ControlSettings(tmp_path / "s", port=0)


@pytest.fixture
def routes() -> str:
    """A VirtualService (90/10, with a fallback) and the DestinationRule it needs."""
    return ROUTES


@pytest.fixture
def make() -> Make:
    """Make an instance: `make("a", version="v2")`."""

    def build(
        name: str,
        *,
        service: str = "catalog",
        version: str = "v1",
        zone: str = "z1",
        health: Health = Health.HEALTHY,
    ) -> Instance:
        return Instance(name, service, version, zone, "127.0.0.9", 15006, health)

    return build


@pytest.fixture
async def plane(settings: ControlSettings, make: Make) -> AsyncIterator[ControlPlane]:
    """A running control plane with three healthy instances: a and b of v1, c of v2."""
    async with serving(settings) as (plane, url):
        token = plane.tokens.by_role["proxy"]
        async with ControlClient(url, token) as sidecar:
            for instance in (make("a"), make("b"), make("c", version="v2")):
                await sidecar.register(instance)
                await sidecar.heartbeat(instance.id)
        yield plane


@pytest.fixture
def dial(plane: ControlPlane, settings: ControlSettings) -> Dial:
    """Open a client with the token of a role (None: without a token)."""
    assert plane.ready

    @asynccontextmanager
    async def open_client(role: Role | None = "operator") -> AsyncIterator[ControlClient]:
        client = ControlClient.from_state_dir(settings.state_dir, role or "operator")
        if role is None:
            client = ControlClient(client.url)
        async with client:
            yield client

    return open_client


@pytest.fixture
def fast(settings: ControlSettings) -> ControlSettings:
    """The same settings with short silences, for tests that wait for real time."""
    return replace(settings, lost_after_s=0.3, grace_s=0.5, sweep_s=0.02)
