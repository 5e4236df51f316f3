"""Who vouches for the audit log: an Ed25519 key beside it, and the public keys by which others check.

`audit.key` is the private key in force (PKCS #8, mode 0600); `audit.pub` names every public key this log ever had, one
`ID BASE64` a line. An id is the first 16 hex digits of the SHA-256 of the raw public key. A rotation is announced in the
log by a record that the old key signs, so a reader who trusts the first key trusts all that follow. Whoever can write
the state directory can forge all of it: keep the first line of `audit.pub` elsewhere and verify with `--key`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.audit.files import bounded_lines, replace_file, sync_directory, write_all
from models.errors import Broken, InvalidInput

ID_DIGITS: Final = 16
SIGNATURE_DIGITS: Final = 128

Trust = Mapping[str, Ed25519PublicKey]
"""The public keys a reader believes, by id."""


class Signer:
    """One private key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.id = key_id(self.public)

    def sign(self, content: bytes) -> str:
        """Return the signature in hex."""
        return self._private.sign(content).hex()

    def pem(self) -> bytes:
        """Return the private key as it stands in its file."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def secret(self, purpose: str) -> bytes:
        """Return a secret that only the holder of this key can derive."""
        raw = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return hashlib.sha256(f"fibrin {purpose}\n".encode() + raw).digest()


def new_signer() -> Signer:
    """Return a new key."""
    return Signer(Ed25519PrivateKey.generate())


def key_id(public: Ed25519PublicKey) -> str:
    """Return the id of a public key."""
    return hashlib.sha256(_raw(public)).hexdigest()[:ID_DIGITS]


def encoded(public: Ed25519PublicKey) -> str:
    """Return a public key as text."""
    return base64.b64encode(_raw(public)).decode()


def decoded(text: str) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        ValueError: it is none.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not an Ed25519 public key in base64") from error


def signed_by(public: Ed25519PublicKey, signature: str, content: bytes) -> bool:
    """Tell whether `signature` (hex) over `content` was made by the owner of `public`."""
    try:
        public.verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_path(path: Path) -> Path:
    """Return where the private key of the log at `path` stands: `audit.log` → `audit.key`."""
    return path.with_suffix(".key")


def public_path(path: Path) -> Path:
    """Return where the public keys of the log at `path` stand: `audit.log` → `audit.pub`."""
    return path.with_suffix(".pub")


def next_path(path: Path) -> Path:
    """Return where a key waits that is about to take over: `audit.log` → `audit.key.next`."""
    return path.with_suffix(".key.next")


def load_signer(path: Path, *, fresh: bool) -> Signer:
    """Return the key of the log at `path`; a `fresh` log (no record yet) gets one made.

    Raises:
        Broken: the log has records but its key is gone, open to others, or no key.
        OSError: the disk fails us.
    """
    place = key_path(path)
    if place.exists():
        return read_signer(place)
    if not fresh:
        hint = f"restore {place}, or move the log and its companions aside as evidence and restart the agent"
        raise Broken(f"{place}, which signs the audit log {path}, is missing", hint=hint)
    made = new_signer()
    publish(path, made.public)
    replace_file(place, made.pem())
    return made


def read_signer(place: Path) -> Signer:
    """Return the private key in a file.

    Raises:
        Broken: others may read it, or it is no key.
        OSError: the disk fails us.
    """
    if place.stat().st_mode & 0o077:
        raise Broken(f"others may read {place}, which signs the audit log", hint=f"chmod 600 {place}; rotate the key")
    try:
        private = load_pem_private_key(place.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Broken(f"{place} is no private key: {error}", hint="restore it from a backup") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise Broken(f"{place} is not an Ed25519 key", hint="restore it from a backup")
    return Signer(private)


def publish(path: Path, public: Ed25519PublicKey) -> None:
    """Add a public key to `audit.pub`; once is enough."""
    line = f"{key_id(public)} {encoded(public)}\n".encode()
    place = public_path(path)
    fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if line not in place.read_bytes():
            write_all(fd, line)
            os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(place.parent)


def trusted(path: Path) -> Trust:
    """Return the public keys that stand beside the log at `path`.

    Raises:
        ValueError: the file is not readable as keys.
        Broken: it is no regular file.
    """
    try:
        text = b"".join(bounded_lines(public_path(path))).decode("ascii", errors="replace")
    except FileNotFoundError:
        return {}
    found: dict[str, Ed25519PublicKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, encoded_key = line.partition(" ")
        public = decoded(encoded_key.strip())
        if key_id(public) != name:
            raise ValueError(f"line {number} names another key than it holds")
        found[name] = public
    return found


def pinned(text: str) -> Trust:
    """Return the keys that a person trusts: the content of an `audit.pub`, or one line of it.

    Raises:
        InvalidInput: there is no key in it.
    """
    found = {}
    for line in text.splitlines():
        word = line.split()[-1] if line.split() else ""
        try:
            public = decoded(word) if word else None
        except ValueError as error:
            raise InvalidInput(f"{word[:60]!r} {error}", hint="give a line of audit.pub, or the file") from error
        if public is not None:
            found[key_id(public)] = public
    if not found:
        raise InvalidInput("there is no public key in it", hint="give a line of audit.pub, or the file")
    return found


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
