"""SHA-256 of little things: what declares an environment, an address, a script."""

from __future__ import annotations

from typing import Any

# ``hashlib`` loads OpenSSL, which takes 3 ms, to have large files hashed faster: those who hash files take that.
_sha256: Any
try:
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found, no-redef, unused-ignore]
except ImportError:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found, no-redef, unused-ignore]
    except ImportError:  # an interpreter that was built without
        from hashlib import sha256 as _sha256


def sha256_of(data: bytes) -> str:
    """The digest, 64 lowercase hex digits."""
    return str(_sha256(data).hexdigest())
