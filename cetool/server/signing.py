"""The key that signs what the server answers: Ed25519 (RFC 8032), a file of the data directory, made once."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cetool.base.errors import CetoolError
from cetool.base.files import sync_directory
from cetool.base.limits import SETTINGS, read_regular
from cetool.remote.records import key_id

#: The key's file in the data directory: PKCS #8, PEM.
KEY_FILE = "signing-key.pem"


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs records. Its key is never printed or sent."""

    _key: Ed25519PrivateKey
    #: The raw public key, 32 bytes, which clients pin.
    public: bytes

    @property
    def id(self) -> str:
        """The public key's id: 64 hex digits."""
        return key_id(self.public)

    def sign(self, payload: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._key.sign(payload)


def open_signer(data: Path) -> Signer:
    """Return the signer of a data directory, whose key is created if there is none.

    Raises CetoolError for a key that cannot be read or that other users could read: it is never replaced, because
    clients trust it.
    """
    path = data / KEY_FILE
    if not path.exists():
        _create(path)
    try:
        if os.name != "nt" and path.stat().st_mode & 0o077:
            raise _unusable(path, "other users can read it", hint=f"Run `chmod 600 {path}`.")
        key = load_pem_private_key(read_regular(path, SETTINGS), None)
    except OSError as error:
        raise _unusable(path, str(error.strerror or error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(path, "it is not a private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "it is not an Ed25519 key")
    return Signer(key, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _create(path: Path) -> None:
    """Write a new key, complete or not at all, unless another process was first. Raises CetoolError."""
    text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # mkstemp: for this user only, from the start
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")
        try:
            with open(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a rename, it never replaces a key
        finally:
            os.unlink(temporary)
        sync_directory(path.parent)
    except OSError as error:
        raise _unusable(path, str(error.strerror or error)) from None


def _unusable(path: Path, problem: str, *, hint: str | None = None) -> CetoolError:
    return CetoolError(
        f"the server's key {path} cannot be used: {problem}",
        code="server-key-unusable",
        about=str(path),
        hint=hint or "Restore it from a backup. Clients refuse a server with another key.",
    )
