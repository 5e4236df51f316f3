"""One sidecar that every unit test of the room starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.spec import SidecarSpec


@pytest.fixture
def spec() -> SidecarSpec:
    """Return a sidecar with everything set that the bootstrap shows."""
    return SidecarSpec(
        id="catalog-v1-2",
        service="catalog",
        version="v1",
        zone="zone-a",
        address="127.0.10.2",
        xds_socket=Path("/run/fibrin/xds.sock"),
        otlp_socket=Path("/run/fibrin/otlp.sock"),
        state_dir=Path("/run/fibrin/proxies/catalog-v1-2"),
        token="proxy-token-of-the-test",
        listen={"payment": 9001},
        labels={"track": "stable"},
    )
