from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.identity.authority import BACKDATE_S, Authority
from control.identity.leaves import Leaves
from models.errors import Broken, Conflict

SHOP = "spiffe://fibrin.local/ns/default/sa/shop"


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A fresh clock."""
    return Clock()


def make(path: Path, clock: Clock, life_s: float = 100.0) -> Leaves:
    """Leaves over an authority in `path`, with fixed jitter."""
    return Leaves(Authority.open(path, clock), clock, life_s, random.Random(1))


def test_root_is_made_once_and_kept_private(tmp_path: Path, clock: Clock) -> None:
    """The root survives a restart, its directory is 0700 and its files are 0600."""
    first = Authority.open(tmp_path / "ca", clock)
    again = Authority.open(tmp_path / "ca", clock)
    assert first.bundle == again.bundle
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "ca").iterdir()} == {0o600}


def test_leaf_is_a_spiffe_identity(tmp_path: Path, clock: Clock) -> None:
    """A leaf holds one URI, a P-256 key, both uses, is signed by the root, and starts before now."""
    authority = Authority.open(tmp_path, clock)
    leaf = authority.issue(SHOP, 60)
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem)
    root = x509.load_pem_x509_certificate(authority.bundle)
    certificate.verify_directly_issued_by(root)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [SHOP]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert certificate.not_valid_before_utc.timestamp() == clock.now - BACKDATE_S
    assert certificate.not_valid_after_utc.timestamp() == clock.now + 60


def test_change_of_root_in_three_steps(tmp_path: Path, clock: Clock) -> None:
    """Both roots are trusted until the old one is retired, the new one signs from `promote`, and files say the same."""
    authority = Authority.open(tmp_path, clock)
    old = authority.signer
    with pytest.raises(Conflict):
        authority.promote()
    authority.begin()
    assert (authority.changing, authority.signer) == ("begun", old)
    assert authority.bundle.count(b"BEGIN") == 2
    with pytest.raises(Conflict):
        authority.begin()
    authority.promote()
    assert authority.changing == "promoted"
    assert authority.signer != old
    assert Authority.open(tmp_path, clock).bundle == authority.bundle
    authority.retire()
    assert authority.bundle.count(b"BEGIN") == 1
    assert Authority.open(tmp_path, clock).signer == authority.signer


@pytest.mark.parametrize("moved", [0, 1])
def test_interrupted_promotion_is_recovered(tmp_path: Path, clock: Clock, moved: int) -> None:
    """Killed between the steps of `promote`, the authority opens again with a root and its key that match."""
    authority = Authority.open(tmp_path, clock)
    old = authority.signer
    authority.begin()
    (tmp_path / "old.pem").write_bytes((tmp_path / "root.pem").read_bytes())
    if moved:
        (tmp_path / "next.pem").replace(tmp_path / "root.pem")
    again = Authority.open(tmp_path, clock)
    assert again.issue(SHOP, 60).signer == again.signer
    assert (again.signer == old) is (moved == 0)
    assert again.changing == ("promoted" if moved else "begun")


def test_damaged_root_is_a_clear_error(tmp_path: Path, clock: Clock) -> None:
    """A root that cannot be read, or whose key is another's, names its file and what to do."""
    Authority.open(tmp_path / "a", clock)
    Authority.open(tmp_path / "b", clock)
    (tmp_path / "a" / "root.key").write_bytes((tmp_path / "b" / "root.key").read_bytes())
    with pytest.raises(Broken, match=r"root\.key is not the P-256 key") as mismatch:
        Authority.open(tmp_path / "a", clock)
    assert "backup" in mismatch.value.hint
    (tmp_path / "b" / "root.pem").write_text("nonsense")
    with pytest.raises(Broken, match=r"root\.pem"):
        Authority.open(tmp_path / "b", clock)


def test_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path, clock: Clock) -> None:
    """A file in the place of the directory is told, with a hint."""
    (tmp_path / "ca").write_text("")
    with pytest.raises(Broken, match="cannot use"):
        Authority.open(tmp_path / "ca", clock)


def test_leaf_is_renewed_in_the_middle_of_its_life(tmp_path: Path, clock: Clock) -> None:
    """A leaf stays the same until 40 to 60 % of its life, then a new one is due."""
    leaves = make(tmp_path, clock)
    first = leaves.current("shop-1", SHOP)
    clock.now += 39
    assert leaves.current("shop-1", SHOP) is first
    assert leaves.due() == ()
    clock.now += 22
    assert leaves.due() == ("shop-1",)
    assert leaves.current("shop-1", SHOP).version != first.version
    assert leaves.due() == ()


def test_new_root_makes_every_leaf_due(tmp_path: Path, clock: Clock) -> None:
    """After `promote` a leaf of the old root is replaced at once."""
    leaves = make(tmp_path, clock)
    leaves.current("shop-1", SHOP)
    leaves.authority.begin()
    assert leaves.due() == ()
    leaves.authority.promote()
    assert leaves.due() == ("shop-1",)
    assert leaves.current("shop-1", SHOP).signer == leaves.authority.signer


def test_leaf_is_resumed_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    """A new control plane takes over a leaf by its version, and renews it when the old one would have."""
    version = make(tmp_path, clock).current("shop-1", SHOP).version
    leaves = make(tmp_path, clock)
    assert leaves.resume("shop-1", SHOP, version)
    assert leaves.current("shop-1", SHOP).version == version
    assert leaves.current("shop-1", SHOP).leaf is None
    clock.now += 61
    assert leaves.current("shop-1", SHOP).version != version


def test_resumed_leaf_is_never_sent(tmp_path: Path, clock: Clock) -> None:
    """A sidecar that lost the leaf it told of gets one with a key."""
    version = make(tmp_path, clock).current("shop-1", SHOP).version
    leaves = make(tmp_path, clock)
    assert leaves.resume("shop-1", SHOP, version)
    assert leaves.with_key("shop-1", SHOP).leaf is not None


@pytest.mark.parametrize("case", ["service", "root", "late", "future", "long", "nonsense", "numbers"])
def test_unfit_leaf_is_not_resumed(tmp_path: Path, clock: Clock, case: str) -> None:
    """A leaf of another service, another root, near its end, from the future or made up is replaced."""
    version = make(tmp_path / "a", clock).current("shop-1", SHOP).version
    leaves = make(tmp_path / ("b" if case == "root" else "a"), clock)
    uri = SHOP
    parts = version.split(".")
    match case:
        case "service":
            uri = SHOP + "2"
        case "late":
            clock.now += 61
        case "future":
            clock.now -= 10
        case "long":
            version = ".".join([parts[0], str(int(parts[1]) + 10**9), *parts[2:]])
        case "nonsense":
            version = "nonsense"
        case "numbers":
            version = ".".join(["x", *parts[1:]])
    assert not leaves.resume("shop-1", uri, version)
