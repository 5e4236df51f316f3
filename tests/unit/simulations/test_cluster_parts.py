"""The parts a cluster is made of: the fleet's file, addresses of its own, the declared traffic rules."""

from __future__ import annotations

import random
from importlib import resources

import pytest

from models import manifest
from models.errors import Broken
from proxy.spec import check
from simulations import addresses
from simulations.shop import spec as shop
from simulations.sidecars import FLEET, Fleet, Sidecar, spec


def test_fleet_survives_its_file() -> None:
    """What is written for the runner is what it reads, and every sidecar of it can be started."""
    sidecars = tuple(Sidecar(p.id, p.service, p.version, p.zone, "127.9.9.9") for p in shop.PLACEMENTS)
    fleet = Fleet("/tmp/fibrin-x", "http://127.0.0.1:1", 1.0, sidecars)
    again = FLEET.validate_json(fleet.encode())
    assert again == fleet
    for sidecar in again.sidecars:
        check(spec(again, sidecar, "token"))


def test_subnet_gives_everyone_an_address_of_its_own() -> None:
    """Names get distinct loopback addresses of one subnet."""
    found = addresses.free_subnet(["a", "b", "c"], random.Random(1))
    assert len(set(found.values())) == 3
    assert len({a.rpartition(".")[0] for a in found.values()}) == 1
    assert all(a.startswith("127.") for a in found.values())


def test_no_free_subnet_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every subnet is taken the error says which ports were wanted and what to do."""
    monkeypatch.setattr(addresses, "_free", lambda *_: False)
    with pytest.raises(Broken, match="8080, 15001 and 15006") as caught:
        addresses.free_subnet(["a"], random.Random(1))
    assert "ss -ltn" in caught.value.hint


def test_declared_rules_are_about_services_that_exist() -> None:
    """Every declared host, subset and version exists in the shop; optional pages have a declared fallback."""
    folder = resources.files("simulations.shop") / "mesh"
    documents = [
        d for f in folder.iterdir() if f.name.endswith(".yaml") for d in manifest.parse(f.name, f.read_text("utf-8"))
    ]
    assert {d.kind for d in documents} == {"VirtualService", "DestinationRule"}
    assert {d.name for d in documents} <= set(shop.SERVICES)
