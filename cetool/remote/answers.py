"""Ask servers for the packages of a request, and keep what they said.

A signed answer is kept with its entity tag, so that the server need not send it again. That a server does not know a
request, or does not answer, is remembered for a minute.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, StoreError
from cetool.base.limits import LOCK, parse_json
from cetool.base.values import Value
from cetool.remote.connection import Connection, Response, unusable
from cetool.remote.pinned import Pinned
from cetool.remote.records import BuildRecord, key_id, opened
from cetool.store.keyed import KeyedFiles

#: Seconds for which a miss or a failure is remembered.
REMEMBERED = 60.0
_LONGEST_TAG = 200
_MOST_BYTES = 4 * LOCK


class Running(Value):
    """A server is building the environment."""

    build: int


class KnownAnswers:
    """What servers said, below one private directory."""

    def __init__(self, directory: Path, *, trust: bool = False) -> None:
        #: Signed answers by request.
        self.answers = KeyedFiles(directory / "records", trust=trust)
        self._missed = KeyedFiles(directory / "missed", trust=trust)
        self._failed = KeyedFiles(directory / "failed", trust=trust)

    def find(self, key: str) -> tuple[str, str]:
        """Return the entity tag and the envelope that are kept; two empty texts if there are none."""
        with contextlib.suppress(OSError, StoreError, ValueError, KeyError, TypeError):
            self.answers.check()
            kept = parse_json(self.answers.read(key, _MOST_BYTES))
            return str(kept["etag"]), str(kept["envelope"])
        return "", ""

    def keep(self, key: str, etag: str, envelope: str) -> None:
        """Keep an answer, if possible."""
        with contextlib.suppress(OSError, StoreError):
            self.answers.write(key, json.dumps({"etag": etag, "envelope": envelope}).encode())

    def missed(self, key: str) -> bool:
        """Return whether the server did not know the request a moment ago."""
        return not self._missed.is_due(key, REMEMBERED)

    def note_miss(self, key: str) -> None:
        """Note that the server does not know the request."""
        self._missed.touch(key, create=True)

    def forget_miss(self, key: str) -> None:
        """The server may know the request now."""
        self._missed.remove(key)

    def failed(self, url: str, what: str = "") -> bool:
        """Return whether the server did not answer a moment ago; or what else was noted of it."""
        return not self._failed.is_due(_failure(url, what), REMEMBERED)

    def note_failure(self, url: str, what: str = "") -> None:
        """Note that the server does not answer."""
        self._failed.touch(_failure(url, what), create=True)


def _failure(url: str, what: str) -> str:
    return sha256_of(f"{url}\0{what}".encode("utf-8", "surrogatepass"))


def answer_key(url: str, platform: str, request: str) -> str:
    """Return the key of a request to a server."""
    return sha256_of(f"{url}\0{platform}\0{request}".encode("utf-8", "surrogatepass"))


def ask(
    connection: Connection, pinned: Pinned, platform: str, request: str, known: KnownAnswers
) -> BuildRecord | Running | None:
    """Ask a server for the answer to a request (a digest); None if it has none.

    Raises CetoolError if the server cannot be reached, refuses access, or lies.
    """
    key = answer_key(pinned.url, platform, request)
    etag, envelope = known.find(key)
    response = connection.request(
        "GET",
        f"/answers/{platform}/{request}",
        headers={"If-None-Match": etag} if etag and envelope else {},
        expects=(200, 202, 304, 404),
    )
    if response.status == 404:
        response.read()
        known.note_miss(key)
        return None
    known.forget_miss(key)
    if response.status == 202:
        return Running(_number(response, connection))
    if response.status == 304:
        response.read()
        if not envelope:
            raise unusable("it says that nothing has changed, but nothing is known", connection.access)
        try:
            return checked(envelope, pinned, platform, request)
        except CetoolError:  # what is kept is damaged, or of a key that was replaced
            known.answers.remove(key)
            return ask(connection, pinned, platform, request, known)
    envelope = response.read(_MOST_BYTES).decode("utf-8", "replace")
    record = checked(envelope, pinned, platform, request)
    etag = str(response.headers.get("ETag") or "")
    known.keep(key, etag if etag.isascii() and etag.isprintable() and len(etag) <= _LONGEST_TAG else "", envelope)
    return record


def _number(response: Response, connection: Connection) -> int:
    told = response.json()
    build = told.get("build") if isinstance(told, dict) else None
    if not isinstance(build, int) or not 0 < build < 2**63:
        raise unusable("it names no build", connection.access)
    return build


def checked(envelope: str | bytes, pinned: Pinned, platform: str, request: str | None) -> BuildRecord:
    """Return the record in an envelope, if the server's key signed it and it is about this request and platform.

    Without ``request`` it may be about any. Raises CetoolError.
    """
    try:
        record = opened(envelope, pinned.key)
    except CetoolError as error:
        if _signed_by_another(envelope, pinned):
            raise changed_key(pinned) from None
        raise error.but(message=f"{pinned.shown}: {error.message}", about=pinned.url) from None
    if request is not None and record.request != request:
        raise _lie(pinned, "its answer is about another request")
    if record.platform != platform:
        raise _lie(pinned, f"its answer is for {record.platform}, not for {platform}")
    unknown = record.lock.without_digest
    if unknown:
        raise _lie(pinned, f"its answer has no digest for {', '.join(unknown[:5])}")
    if not record.conda:
        raise _lie(pinned, "its answer has no packages")
    return record


def _signed_by_another(envelope: str | bytes, pinned: Pinned) -> bool:
    """Return whether only another key than the pinned one signed an envelope."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        named = [each.get("keyid") for each in parse_json(envelope)["signatures"]]
        return bool(named) and not {None, key_id(pinned.key)} & set(named)
    return False


def changed_key(pinned: Pinned) -> CetoolError:
    """Return the error for a server that signs with another key than the pinned one."""
    return CetoolError(
        f"{pinned.shown} signs with another key than the one that `cetool login` stored",
        code="server-key-changed",
        about=pinned.url,
        hint=f"If its operator has changed the key, log in again: `cetool logout {pinned.url}`, then `cetool login`.",
    )


def _lie(pinned: Pinned, problem: str) -> CetoolError:
    return CetoolError(f"{pinned.shown}: {problem}", code="server-untrusted", about=pinned.url)
