"""`fibrin get`: every kind in every format, from the very objects that the control API's client returns."""

from __future__ import annotations

from typing import Any, Final

import pytest

from control.wire import OverlayStatus, Propagation, ProxyView, Resource, ServiceView
from fibrin.cli.output import FORMATS, show
from fibrin.cli.resources import KINDS, selectable
from models.domain import ChangeEvent, ChangeKind, Instance
from models.overlay import EjectInstance, Overlay, Owner
from models.policy import ServicePolicy

INSTANCE: Final = Instance("catalog-v1-1", "catalog", "v1", "a", "127.0.0.2", 15006, labels={"team": "web"})
POLICY: Final = ServicePolicy("catalog")
OVERLAY: Final = Overlay(
    id="ov-1",
    change=EjectInstance("catalog", "catalog-v1-1"),
    owner=Owner.PERSON,
    actor="kim",
    reason="it is slow",
    created_at=1.0,
    expires_at=601.0,
    lease_s=600.0,
)
SAMPLES: Final[dict[str, Any]] = {
    "service": ServiceView("catalog", POLICY, POLICY, (INSTANCE,), ("ov-1",)),
    "instance": INSTANCE,
    "proxy": ProxyView("catalog-v1-1", connected=True, nack="no such cluster", rejected=("Cluster",)),
    "overlay": OverlayStatus(OVERLAY, propagation=Propagation()),
    "change": ChangeEvent(7, 1.0, ChangeKind.OVERLAY, "Overlay/ov-1", "catalog"),
}


def _declared(kind: str) -> Resource:
    return Resource(
        kind=kind,
        name="catalog",
        namespace="",
        api_version="networking.istio.io/v1",
        generation=1,
        source="shop.yaml",
        actor="kim",
        created_at=1.0,
        updated_at=1.0,
        manifest={"kind": kind},
    )


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_shown_in_every_format(kind: Any, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No column asks a view for what it has not, and the row's name is in every format."""
    row = SAMPLES.get(kind.name) or _declared(kind.name)
    show([row], kind.columns, output, kind=kind.name, name=kind.key)
    assert kind.key(row) in capsys.readouterr().out


def test_a_selector_sees_what_the_table_shows() -> None:
    """Service, version and zone select as labels do; a label of the same name wins."""
    assert selectable(INSTANCE) == {"service": "catalog", "version": "v1", "zone": "a", "team": "web"}
    labelled = Instance("x", "catalog", "v1", "a", "127.0.0.2", 15006, labels={"version": "canary"})
    assert selectable(labelled)["version"] == "canary"
