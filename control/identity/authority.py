"""The built-in certificate authority: a P-256 root on disk, SPIFFE leaves in memory.

Why built in: a mesh on a laptop should have identities without anybody installing a PKI. The root lives in a directory
of mode 0700, its key in a file of mode 0600. A change of root goes through files too, so that a control plane that is
killed half-way comes back with the same set of trusted roots:

    root.pem root.key     signs leaves
    next.pem next.key     trusted, not signing yet (between `begin` and `promote`)
    old.pem               trusted, signing no more (between `promote` and `retire`)
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.errors import Broken, Conflict

TRUST_DOMAIN: Final = "fibrin.local"
ROOT_LIFE_S: Final = 10 * 365 * 86_400.0
BACKDATE_S: Final = 300.0  # clocks of two machines may differ by this much, seconds
FINGERPRINT_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Root:
    """A root certificate; `key` is None for one that only has to be trusted.

    `fingerprint` are the first 16 hexadecimal digits of the certificate's SHA-256.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None
    pem: bytes
    fingerprint: str

    @classmethod
    def of(cls, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> Self:
        """Work out PEM and fingerprint once: they are asked for at every pass of every stream."""
        digest = certificate.fingerprint(hashes.SHA256()).hex()[:FINGERPRINT_CHARS]
        return cls(certificate, key, certificate.public_bytes(serialization.Encoding.PEM), digest)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and key of one sidecar. Times are Unix seconds; `signer` is the fingerprint of its root."""

    uri: str
    certificate_pem: bytes
    key_pem: bytes
    issued_at: float
    not_after: float
    serial: int
    signer: str


class Authority:
    """Signs leaves and knows which roots are trusted.

    Create it with `open` (file I/O: call it in a thread). Signing takes 0.15 ms and is done in memory.
    """

    def __init__(
        self, directory: Path, clock: Callable[[], float], roots: tuple[Root, Root | None, Root | None]
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._active, self._next, self._old = roots

    @classmethod
    def open(cls, directory: Path, clock: Callable[[], float]) -> Self:
        """Load the roots in `directory`, or make the first one.

        Args:
            directory: created with mode 0700 when missing.
            clock: Unix seconds.

        Raises:
            Broken: the directory cannot be used, or what is in it is not a P-256 root.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            _recover(directory)
            if not (directory / "root.pem").exists():
                _store(directory, "root", _make_root(clock()))
            active = _load(directory, "root", with_key=True)
            following = _load(directory, "next", with_key=True) if (directory / "next.pem").exists() else None
            old = _load(directory, "old", with_key=False) if (directory / "old.pem").exists() else None
        except OSError as error:
            raise Broken(
                f"the certificate authority cannot use {error.filename or directory}: {error.strerror}",
                hint="make the state directory writable for this user, or give another one",
            ) from error
        return cls(directory, clock, (active, following, old))

    @property
    def signer(self) -> str:
        """Fingerprint of the root that signs now."""
        return self._active.fingerprint

    @property
    def bundle(self) -> bytes:
        """All trusted roots as PEM, the signing one first."""
        return b"".join(root.pem for root in (self._active, self._next, self._old) if root is not None)

    def issue(self, uri: str, life_s: float) -> Leaf:
        """Sign a fresh key for the SPIFFE id `uri`, valid for `life_s` seconds from now (and a little before)."""
        signer = self._active
        assert signer.key is not None
        now = self._clock()
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        not_after = min(now + life_s, signer.certificate.not_valid_after_utc.timestamp())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(signer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(_moment(now - BACKDATE_S))
            .not_valid_after(_moment(not_after))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(signer.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Leaf(uri, pem, _key_pem(key), now, not_after, serial, signer.fingerprint)

    def begin(self) -> None:
        """First step of a change of root: make the next one and trust it beside the signing one.

        Raises:
            Conflict: a change of root is under way already.
        """
        if self._next is not None or self._old is not None:
            raise Conflict("a change of root is under way already", hint="let it end: promote, then retire")
        root = _make_root(self._clock())
        _store(self._directory, "next", root)
        self._next = root

    def promote(self) -> None:
        """Second step, once every sidecar trusts both: sign with the next root, go on trusting the old one.

        Raises:
            Conflict: there is no next root.
        """
        if self._next is None:
            raise Conflict("there is no next root to promote", hint="begin a change of root first")
        _write(self._directory / "old.pem", self._active.pem)
        for suffix in (".pem", ".key"):
            (self._directory / f"next{suffix}").replace(self._directory / f"root{suffix}")
        self._active, self._next, self._old = self._next, None, Root.of(self._active.certificate, None)

    def retire(self) -> None:
        """Last step, once every sidecar has a leaf of the new root: trust the old one no more."""
        (self._directory / "old.pem").unlink(missing_ok=True)
        self._old = None

    @property
    def changing(self) -> str:
        """Where a change of root stands: "" (none), "begun" or "promoted"."""
        return "begun" if self._next is not None else "promoted" if self._old is not None else ""


def _make_root(now: float) -> Root:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # The serial in the name keeps two roots apart for verifiers that look issuers up by name.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TRUST_DOMAIN),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Fibrin root {serial:x}"[:40]),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_moment(now - BACKDATE_S))
        .not_valid_after(_moment(now + ROOT_LIFE_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return Root.of(certificate, key)


def _moment(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, tz=dt.UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _store(directory: Path, name: str, root: Root) -> None:
    """The key goes first: what counts as there is the certificate."""
    assert root.key is not None
    _write(directory / f"{name}.key", _key_pem(root.key))
    _write(directory / f"{name}.pem", root.pem)


def _recover(directory: Path) -> None:
    """Finish a `promote` that was killed between two of its steps."""
    root, old = directory / "root.pem", directory / "old.pem"
    following = directory / "next.pem", directory / "next.key"
    if following[1].exists() and not following[0].exists():
        if old.exists():  # the certificate was moved, the key was not
            following[1].replace(directory / "root.key")
        else:  # `begin` did not get to the certificate
            following[1].unlink()
    if old.exists() and root.exists() and old.read_bytes() == root.read_bytes():
        old.unlink()  # nothing was moved yet: the old root still signs


def _write(path: Path, content: bytes) -> None:
    """Write with mode 0600, whole or not at all, durable."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _load(directory: Path, name: str, *, with_key: bool) -> Root:
    pem, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    try:
        certificate = x509.load_pem_x509_certificate(pem.read_bytes())
        if not with_key:
            return Root.of(certificate, None)
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except ValueError as error:
        raise Broken(
            f"{pem} or {key_file} does not hold a PEM certificate and key: {error}",
            hint="restore the pair from a backup; removing both makes a new root that no running sidecar trusts",
        ) from error
    matches = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
    if not matches or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Broken(
            f"{key_file} is not the P-256 key of {pem}",
            hint="restore the pair from a backup; removing both makes a new root that no running sidecar trusts",
        )
    return Root.of(certificate, key)
