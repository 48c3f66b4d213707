"""SHA-256 of small things (a declaration, an address, a script), and the text that values are hashed as."""

from __future__ import annotations

import json
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


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: the same on every Python and machine, in ASCII (docs/specification.md).

    Keys are sorted by code point, nothing separates tokens but ``,`` and ``:``, and every character that is not
    printable ASCII is an escape in lower case, so that no version of Unicode has a say. Raises ValueError for a float
    that is not a number, TypeError for what JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
