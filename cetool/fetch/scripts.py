"""A script's bytes from a URL, over HTTPS, within limits of time and size, its credentials kept out of sight."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from cetool.base.errors import CetoolError, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.base.urls import strip_credentials
from cetool.declare.source import MAX_SIZE
from cetool.fetch.addresses import GITHUB_HOSTS, GITHUB_TOKEN, Address, authorization, parse_address
from cetool.fetch.pages import file_of_gist, likely_raw, raw_file

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
#: The whole download may take this many times the seconds of silence that are allowed.
_TOTAL_FACTOR = 4
_CHUNK = 64 * 1024
_LONGEST_HEADER = 512
#: How a page begins that was sent as plain text.
_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Known:
    """What was fetched before, to be asked for only if it has changed (RFC 9110, 13.1)."""

    #: The key of the address that had it in the end.
    address: str
    data: bytes
    #: What that said of it.
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A script that was fetched."""

    #: Where it was in the end, without credentials.
    url: str
    data: bytes
    #: Its file name, printable, without slashes.
    name: str
    #: What the next fetch may be told.
    known: Known


class UnreachableError(CetoolError):
    """Nothing came from the server: there may be no network."""

    code = "url-unreachable"


def locate_script(url: str, *, insecure: bool = False, what: str = "script") -> Address:
    """The address that a URL means: of the file, where it is that of a page known to show one; a gist's page stays.

    Raises UsageError for a URL that cannot be used, and for plain HTTP unless ``insecure``.
    """
    address = raw_file(parse_address(url, what))
    if address.scheme != "https" and not insecure:
        raise UsageError(
            f"a {what} is not fetched over plain http://, where anybody on the way can change it",
            code="url-invalid",
            where=address.where,
            hint="Write https:// if the server has it; --insecure fetches it as it is.",
        )
    return address


def fetch_script(
    url: str | Address,
    *,
    insecure: bool = False,
    timeout: float = 30.0,
    known: Known | None = None,
    environ: Mapping[str, str] | None = None,
) -> Fetched:
    """Fetch a script.

    Links to the pages that code hosts show a file on become those of the files. ``insecure`` lets plain HTTP pass;
    certificates are checked all the same. ``timeout`` is for how many seconds a server may be silent; all of it may
    take four times that. A user and password in the URL are sent to that scheme, host and port only; what ``environ``
    (the process's, if None) has for a host by :mod:`cetool.fetch.addresses` to that host only. Where the server says
    that ``known`` has not changed, its data are what was fetched.

    Raises UsageError for a URL that cannot be used, ScriptNotFoundError where there is no such file, UnreachableError
    where no server answers, CetoolError where it cannot be had, is a page instead of a script, or is larger than
    ``MAX_SIZE``.
    """
    address = url if isinstance(url, Address) else locate_script(url, insecure=insecure)
    variables = os.environ if environ is None else environ
    limit = timeout * _TOTAL_FACTOR
    fetched = _within(limit, lambda stop: _Download(insecure, timeout, variables, stop).follow(address, known))
    if fetched is None:
        message = f"the {address.what} was not here after {limit:g} seconds"
        raise UnreachableError(message, where=address.where, hint="Try again, or save it in a file.")
    return fetched


def _within(limit: float, work: Callable[[threading.Event], Fetched]) -> Fetched | None:
    """What ``work`` returns or raises, or None where that takes longer than ``limit`` seconds.

    It runs in a thread: a name server that does not answer and a header that comes byte by byte are bound by no timeout
    of a socket's, and hold off Ctrl-C. One that is given up on ends with the process, if not by ``stop`` before.
    """
    outcome: list[Fetched | BaseException] = []
    stop, finished = threading.Event(), threading.Event()

    def run() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:  # all of it goes to the caller's thread
            outcome.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, name="cetool-fetch", daemon=True)
    thread.start()
    try:
        if not finished.wait(limit):
            return None
    finally:
        stop.set()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _name(asked: Address, final: Address) -> str:
    """A file name out of the URLs: the one asked for unless only the one it led to has a suffix."""
    names = [asked.file_name, final.file_name]
    return next((name for name in names if "." in name), names[0] or names[1]) or "script"


# --- the download ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Download:
    """How to ask, and what authenticates by the origins of the URLs that brought it."""

    insecure: bool
    timeout: float
    environ: Mapping[str, str]
    stop: threading.Event
    basic: dict[str, str] = field(default_factory=dict)

    def follow(self, address: Address, known: Known | None, *, script: bool = True) -> Fetched:
        """Ask, follow redirects, read; what is no ``script`` may be any text."""
        import http.client

        asked = address
        for _ in range(_MOST_REDIRECTS + 1):
            if script:
                address = file_of_gist(address, lambda api: self.follow(api, None, script=False).data)
            if address.basic is not None:
                self.basic[address.origin] = address.basic
            same = known if known is not None and known.address == address.key else None
            # every error is told of the address that it happened at, which may be another server's than was asked
            try:
                with self._open(address, same) as response:
                    if response.status == 304 and same is not None:
                        return Fetched(address.shown, same.data, _name(asked, address), same)
                    target = response.headers.get("Location") if response.status in _REDIRECTS else None
                    if target is None:
                        _check_answer(response, address)
                        data = _read(response, address, self.stop)
                        start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
                        if script and start.startswith(_PAGE):
                            raise _is_page(address)
                        told = Known(address.key, data, _told(response, "ETag"), _told(response, "Last-Modified"))
                        return Fetched(address.shown, data, _name(asked, address), told)
            except CetoolError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a proxy's URL is malformed
                raise _failure(error, address, self.timeout) from None
            address = _redirected(address, target, self.insecure)
        raise asked.unusable(
            f"the server sends the request on more than {_MOST_REDIRECTS} times",
            "Open the link in a browser, and give the address that it ends at.",
        )

    def _open(self, address: Address, known: Known | None) -> Any:
        """The response, whatever its status; redirects are not followed here."""
        import ssl
        import urllib.request as web

        opener = web.OpenerDirector()  # not build_opener's: a server must not lead to a file: or data: URL
        https = web.HTTPSHandler(context=ssl.create_default_context())
        # the last one refuses proxies of kinds that urllib does not know
        for handler in (web.ProxyHandler(), web.HTTPHandler(), https, web.UnknownHandler()):
            opener.add_handler(handler)
        request = web.Request(address.url, headers={"User-Agent": "cetool", "Accept": "text/plain, */*;q=0.8"})
        header = authorization(address, self.environ, basic=self.basic.get(address.origin))
        if header is not None:
            request.add_header("Authorization", header)
        if known is not None and known.etag:
            request.add_header("If-None-Match", known.etag)
        elif known is not None and known.modified:
            request.add_header("If-Modified-Since", known.modified)
        return opener.open(request, timeout=self.timeout)


def _told(response: Any, header: str) -> str | None:
    """A header to be sent back later, if it is one that can be."""
    value = str(response.headers.get(header) or "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= _LONGEST_HEADER else None


def _redirected(address: Address, target: str, insecure: bool) -> Address:
    try:
        # http.client reads headers as Latin-1; servers that write more than ASCII there write UTF-8
        target = target.encode("latin-1").decode("utf-8", "replace").strip().replace(" ", "%20")
        following = raw_file(parse_address(urljoin(address.url, target), address.what))
    except (UsageError, ValueError):
        following = None
    if following is None or (following.scheme != "https" and not insecure):
        to = "an address that cannot be used" if following is None else f"{following.shown}, which is not HTTPS"
        raise address.unusable(
            f"the server sends the request on to {to}",
            f"Open the link in a browser, and give the https:// address that it ends at, or save the {address.what}.",
        )
    return following


def _check_answer(response: Any, address: Address) -> None:
    """Raise for any answer but a script that can be read."""
    status, host, where = response.status, address.host, address.where
    private = f" {GITHUB_TOKEN} is read for private ones." if host in GITHUB_HOSTS else ""
    if status in (404, 410):
        raise ScriptNotFoundError(
            f"{host} has no such {address.what} (status {status})",
            about=address.shown,
            where=where,
            hint=f"Check the link; for a private file many servers answer so as well.{private}",
        )
    if status in (401, 403, 407):
        raise CetoolError(
            f"{host} does not let you read it (status {status})",
            about=address.shown,
            code="url-unauthorized",
            where=where,
            hint="It needs other rights: https://USER:PASSWORD@HOST/..., an entry in ~/.netrc, "
            f"or save the {address.what} and give its path.{private}",
        )
    if status not in (200, 203):
        later = status == 429 or status >= 500
        raise (UnreachableError if later else CetoolError)(
            f"{host} answers with status {status} instead of the {address.what}",
            where=where,
            hint="Try again later." if later else "Look at the link in a browser.",
        )
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _is_page(address)
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise address.unusable(
            f"{host} sends the {address.what} compressed, which was not asked for", "Save it and give its path."
        )


def _is_page(address: Address) -> CetoolError:
    raw = likely_raw(address)
    link = f" Perhaps it is {strip_credentials(raw)}." if raw else ""
    return address.unusable(
        f"this is a web page, not a {address.what}",
        f"Give the link to the file itself: where a site shows a file, the one called 'Raw'.{link} "
        "It may also be the page to log in on, for a file that is private.",
    )


def _read(response: Any, address: Address, stop: threading.Event) -> bytes:
    """The body, all of it: half a script must never run."""
    expected: int | None = response.length
    data = bytearray()
    while expected is None or len(data) < expected:
        if max(len(data), expected or 0) > MAX_SIZE:
            raise address.unusable(
                f"the {address.what} is larger than {MAX_SIZE // 1024 // 1024} MiB", "Keep data in a file of its own."
            )
        if stop.is_set():  # nobody waits any more
            break
        # not read(): that one waits until it has as much as was asked for
        chunk = response.read1(_CHUNK if expected is None else min(_CHUNK, expected - len(data)))
        if not chunk:
            break
        data += chunk
    if expected is not None and len(data) < expected:
        raise address.unusable(
            f"the connection broke off after {len(data)} of {expected} bytes", "Try again.", code="url-unreachable"
        )
    return bytes(data)


def _failure(error: Exception, address: Address, timeout: float) -> UnreachableError:
    """What went wrong between here and the server, in a sentence."""
    import http.client
    import socket
    import ssl
    import urllib.error
    import urllib.request as web

    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    host = address.host
    hint = "Check the network and the link."
    if address.scheme in web.getproxies() and not web.proxy_bypass(host):
        hint = f"It was asked for through a proxy: check {address.scheme}_proxy and no_proxy too."
    if isinstance(error, TimeoutError):
        said = f"{host} was silent for {timeout:g} seconds"
    elif isinstance(error, socket.gaierror):
        said = f"{host} was not found by its name ({error.strerror})"
    elif isinstance(error, ConnectionRefusedError):
        said = f"{host} refuses the connection"
    elif isinstance(error, (ConnectionResetError, http.client.IncompleteRead)):
        said = "the connection broke off"
        hint = "Try again."
    elif isinstance(error, ssl.SSLCertVerificationError):
        said = f"the certificate of {host} is not valid: {error.verify_message}"
        hint = "Check the clock; where a network has an authority of its own, SSL_CERT_FILE names its certificate."
    elif isinstance(error, ssl.SSLError):
        said = f"no secure connection to {host}: {(error.reason or 'it broke off').replace('_', ' ').lower()}"
    elif isinstance(error, http.client.HTTPException):
        said = f"{host} does not answer as a web server should"
    elif isinstance(error, OSError):
        said = f"{host} cannot be reached: {printable(error.strerror or str(error) or type(error).__name__)}"
    else:
        said = f"{host} cannot be asked ({type(error).__name__})"
    return UnreachableError(said, where=address.where, hint=hint)
