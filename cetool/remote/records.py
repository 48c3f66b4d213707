"""Build records: what a server answers to a request, signed, so that a client can check who says it.

A record is the payload of a DSSE envelope (https://github.com/secure-systems-lab/dsse, version 1.0.2), signed with
Ed25519 (RFC 8032). The envelope's JSON is what the server stores and sends; the key's id is the SHA-256 of the raw
public key, in hex.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable

from cetool.base.codec import decode, encode
from cetool.base.errors import CetoolError
from cetool.base.limits import parse_json
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock

PAYLOAD_TYPE = "application/vnd.cetool.build+json"
_SCHEMA = 1
#: Signs the given bytes, and returns the 64 bytes of the signature.
Sign = Callable[[bytes], bytes]


class BuildRecord(Value):
    """A server's answer to the request for one environment on one platform."""

    #: The digest of the requested specification (:attr:`cetool.declare.environment.EnvironmentSpec.digest`).
    request: str
    #: A subdir such as ``linux-64``.
    platform: str
    #: The number of the build.
    build: int
    spec: EnvironmentSpec
    #: In topological order.
    conda: tuple[Package, ...]
    pypi: tuple[PypiPackage, ...] = ()
    #: ``namespace/name``; None for an answer without an environment.
    environment: str | None = None
    #: Match specs of the virtual packages that the machine must have, such as ``__glibc >=2.17``.
    requires: tuple[str, ...] = ()
    #: The name and version of the engine that solved.
    engine: str = ""
    #: RFC 3339, UTC.
    created: str = ""
    #: The server's id.
    server: str = ""

    @property
    def lock(self) -> PlatformLock:
        """The exact packages."""
        return PlatformLock(self.platform, self.conda, self.pypi)


def key_id(public: bytes) -> str:
    """Return the id of a raw public key (32 bytes): 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def sealed(record: BuildRecord, public: bytes, sign: Sign) -> str:
    """Return the record as a signed envelope (JSON)."""
    payload = json.dumps(encode(record, schema=_SCHEMA), separators=(",", ":"), sort_keys=True).encode()
    signature = {"keyid": key_id(public), "sig": _text(sign(_authenticated(payload)))}
    envelope = {"payloadType": PAYLOAD_TYPE, "payload": _text(payload), "signatures": [signature]}
    return json.dumps(envelope, separators=(",", ":"))


def opened(envelope: str | bytes, public: bytes) -> BuildRecord:
    """Return the record in an envelope that this raw public key signed.

    Raises CetoolError with the code ``server-untrusted`` for a wrong signature, another key or a malformed record.
    """
    from cryptography.exceptions import InvalidSignature  # only clients of a server need it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        parts = parse_json(envelope.encode() if isinstance(envelope, str) else envelope)
        payload = _bytes(parts["payload"])
        signatures = [each for each in parts["signatures"] if each.get("keyid") in (None, key_id(public))]
        if parts["payloadType"] != PAYLOAD_TYPE or not signatures:
            raise _untrusted("another key signed the answer")
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(_bytes(signatures[0]["sig"]), _authenticated(payload))
        return decode(BuildRecord, parse_json(payload), schema=_SCHEMA)
    except InvalidSignature:
        raise _untrusted("the answer's signature is wrong") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _untrusted(f"the answer is malformed: {error}") from None


def payload_of(envelope: str) -> BuildRecord:
    """Return the record in an envelope whose signature was checked before. Raises ValueError."""
    return decode(BuildRecord, parse_json(_bytes(parse_json(envelope)["payload"])), schema=_SCHEMA)


def _authenticated(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _untrusted(problem: str) -> CetoolError:
    return CetoolError(problem, code="server-untrusted")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("a field is not a string")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
