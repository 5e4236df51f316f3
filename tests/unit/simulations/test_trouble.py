"""Attribution of a spoiled request to the instances under an injected fault."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from simulations.shop import fault, trouble


def test_header_round_trips() -> None:
    """Names written into the header are the names read from it, whatever their order."""
    names = {"cart-v1-2", "catalog"}
    assert trouble.named({trouble.TROUBLE: trouble.header(names)}) == names
    assert trouble.named({}) == frozenset()


def test_answer_of_the_shop_names_only_whom_it_names() -> None:
    """A 500 that an instance itself made blames the instances it names, not the service as a whole."""
    headers = {trouble.INSTANCE: "catalog-v2-1", trouble.TROUBLE: "catalog-v2-1"}
    assert trouble.of_answer("catalog", 500, headers) == {"catalog-v2-1"}


def test_error_made_by_the_mesh_names_the_callee() -> None:
    """A 503 without the mark of an instance means nobody answered: the callee is to blame."""
    assert trouble.of_answer("ads", 503, {}) == {"ads"}


def test_fallback_answer_blames_nobody() -> None:
    """A 200 made by the mesh (a declared fallback) is no trouble."""
    assert trouble.of_answer("ads", 200, {}) == frozenset()


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{",
        b'{"error_ratio": 1.5}',
        b'{"slow_factor": 0.5}',
        b'{"slow_factor": NaN}',
        b'{"error_ratio": null}',
        b'{"x": 1}',
    ],
)
def test_senseless_fault_is_refused(line: bytes) -> None:
    """A fault that is no object, out of range, of the wrong type or of an unknown field is a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        fault.decode(line)


async def test_fault_is_set_over_its_socket(tmp_path: Path) -> None:
    """A fault put in force over the socket is in force; a refused one leaves the last in force."""
    control = fault.FaultControl()
    path = tmp_path / "fault.sock"
    server = await control.serve(path)
    async with server:
        await fault.set_fault(path, fault.Fault(0.2, 10.0))
        assert control.fault == fault.Fault(0.2, 10.0)
        with pytest.raises(ValueError, match="error_ratio must be within"):
            await fault.set_fault(path, fault.Fault(error_ratio=7))
        assert control.fault == fault.Fault(0.2, 10.0)
        assert path.stat().st_mode & 0o777 == 0o600
    await asyncio.sleep(0)
