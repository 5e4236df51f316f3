from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import InvalidInput
from proxy.spec import SidecarSpec, check


def test_a_good_spec_passes(spec: SidecarSpec) -> None:
    """Nothing is found wrong with the standard sidecar, and it names the listeners it waits for."""
    check(spec)
    assert dict(spec.listeners) == {
        "inbound": ("127.0.10.2", 15006),
        "outbound": ("127.0.10.2", 15001),
        "explicit|payment": ("127.0.10.2", 9001),
    }


def test_the_token_is_not_printed(spec: SidecarSpec) -> None:
    """A spec may be logged: it does not show its secret."""
    assert spec.token not in repr(spec)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"id": "Catalog 1"}, "id", "'Catalog 1' is not a name"),
        ({"service": ""}, "service", "'' is not a name"),
        ({"listen": {"UP": 9001}}, "listen", "'UP' is not the name of a service"),
        ({"token": "two\nlines"}, "token", "not printable ASCII"),
        ({"address": "localhost"}, "address", "'localhost' is not an IP address"),
        ({"app_address": "::x"}, "app-address", "'::x' is not an IP address"),
        ({"app_port": 0}, "app-port", "0 is not a port"),
        ({"inbound_port": 70000}, "inbound-port", "70000 is not a port"),
        ({"outbound_port": 15006}, "outbound-port", "127.0.10.2:15006 is already the port of inbound-port"),
        ({"listen": {"payment": 8080}}, "app-port", "127.0.10.2:8080 is already the port of listen payment"),
        ({"state_dir": Path("/" + "d" * 120)}, "state-dir", "a path of 132 bytes"),
        ({"probe_path": "healthz"}, "probe-path", "'healthz' is not a path"),
        ({"metrics_port": 8080}, "metrics-port", "127.0.10.2:8080 is already the port of app-port"),
        ({"metrics_port": 70000}, "metrics-port", "70000 is not a port"),
        ({"concurrency": 0}, "concurrency", "0 worker threads"),
        ({"max_connections": 0}, "max-connections", "0 connections"),
    ],
)
def test_faults_are_named(spec: SidecarSpec, change: dict[str, object], field: str, message: str) -> None:
    """Each fault is one problem that names its flag and what was found."""
    with pytest.raises(InvalidInput) as caught:
        check(replace(spec, **change))  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert problem.field == field
    assert message in problem.message
    assert problem.hint


def test_all_faults_at_once(spec: SidecarSpec) -> None:
    """A person learns of every fault in one go."""
    with pytest.raises(InvalidInput) as caught:
        check(replace(spec, address="x", zone="?", app_address="127.0.0.1", concurrency=-1))
    assert [problem.field for problem in caught.value.problems] == ["zone", "address", "concurrency"]
