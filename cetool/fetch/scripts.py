"""Fetch a script from a URL over HTTPS, within limits of time and size, without revealing credentials."""

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
#: The whole download may take this many times the timeout for a single response.
_TOTAL_FACTOR = 4
_CHUNK = 64 * 1024
_LONGEST_HEADER = 512
#: How a web page begins that was sent as plain text.
_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Known:
    """A script that was fetched before; it is downloaded again only if it has changed (RFC 9110, 13.1)."""

    #: The key of its final address, after redirects.
    address: str
    data: bytes
    #: The headers ``ETag`` and ``Last-Modified`` of that response.
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A script that was fetched."""

    #: The final URL after redirects, without credentials.
    url: str
    data: bytes
    #: Its file name, printable, without slashes.
    name: str
    #: To be passed to the next fetch.
    known: Known


class UnreachableError(CetoolError):
    """The server did not answer; there may be no network."""

    code = "url-unreachable"


def locate_script(url: str, *, insecure: bool = False, what: str = "script") -> Address:
    """Return the address for a URL; for a page that shows a file, the address of the file (except for gists).

    Raises UsageError if the URL cannot be used, and for plain HTTP unless ``insecure``.
    """
    address = raw_file(parse_address(url, what))
    if address.scheme != "https" and not insecure:
        raise UsageError(
            f"a {what} must be fetched over https://: over http:// it can be modified on the way",
            code="url-invalid",
            where=address.where,
            hint="Use https:// if the server supports it, or pass --insecure.",
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

    Links to pages of code hosts that show a file are replaced by links to the file. ``insecure`` allows plain HTTP;
    certificates are checked regardless. ``timeout`` is the number of seconds that a server may be silent; the whole
    download may take four times as long. User and password in the URL are sent only to that scheme, host and port;
    the credentials that :mod:`cetool.fetch.addresses` finds in ``environ`` (the process's if None) only to their
    host. If the server says that ``known`` has not changed, its data are returned.

    Raises UsageError if the URL cannot be used, ScriptNotFoundError if there is no such file, UnreachableError if no
    server answers, and CetoolError if access is refused, if it is a web page instead of a script, or if it is larger
    than ``MAX_SIZE``.
    """
    address = url if isinstance(url, Address) else locate_script(url, insecure=insecure)
    variables = os.environ if environ is None else environ
    limit = timeout * _TOTAL_FACTOR
    fetched = _within(limit, lambda stop: _Download(insecure, timeout, variables, stop).follow(address, known))
    if fetched is None:
        message = f"the download of the {address.what} took longer than {limit:g} seconds"
        hint = f"Try again, or download the {address.what} with another program and give its path."
        raise UnreachableError(message, where=address.where, hint=hint)
    return fetched


def _within(limit: float, work: Callable[[threading.Event], Fetched]) -> Fetched | None:
    """Return or raise what ``work`` does, or return None if it takes longer than ``limit`` seconds.

    ``work`` runs in a thread: no socket timeout applies to a name server that does not answer or a header that arrives
    byte by byte, and both delay Ctrl-C. An abandoned thread ends when it checks ``stop``, or with the process.
    """
    outcome: list[Fetched | BaseException] = []
    stop, finished = threading.Event(), threading.Event()

    def run() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:  # raised again in the caller's thread
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
    """Return a file name from the URLs: that of the requested URL, unless only that of the final one has a suffix."""
    names = [asked.file_name, final.file_name]
    return next((name for name in names if "." in name), names[0] or names[1]) or "script"


# --- the download ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Download:
    """The options of a download, and the credentials found in URLs, by origin."""

    insecure: bool
    timeout: float
    environ: Mapping[str, str]
    stop: threading.Event
    basic: dict[str, str] = field(default_factory=dict)

    def follow(self, address: Address, known: Known | None, *, script: bool = True) -> Fetched:
        """Send the request, follow redirects, and read the body; unless ``script``, it may be any text."""
        import http.client

        asked = address
        for _ in range(_MOST_REDIRECTS + 1):
            if script:
                address = file_of_gist(address, lambda api: self.follow(api, None, script=False).data)
            if address.basic is not None:
                self.basic[address.origin] = address.basic
            same = known if known is not None and known.address == address.key else None
            # errors name the address at which they happened, which may be on another server than the original one
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
            f"too many redirects (more than {_MOST_REDIRECTS})",
            "Open the link in a browser and use the address of the page that it leads to.",
        )

    def _open(self, address: Address, known: Known | None) -> Any:
        """Return the response, whatever its status; redirects are not followed here."""
        import ssl
        import urllib.request as web

        opener = web.OpenerDirector()  # not build_opener(): a server must not redirect to a file: or data: URL
        https = web.HTTPSHandler(context=ssl.create_default_context())
        # the last one refuses proxies of kinds that urllib does not support
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
    """Return a header that can be sent back later; None if it is missing or unsuitable."""
    value = str(response.headers.get(header) or "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= _LONGEST_HEADER else None


def _redirected(address: Address, target: str, insecure: bool) -> Address:
    try:
        # http.client decodes headers as Latin-1; servers that send non-ASCII characters use UTF-8
        target = target.encode("latin-1").decode("utf-8", "replace").strip().replace(" ", "%20")
        following = raw_file(parse_address(urljoin(address.url, target), address.what))
    except (UsageError, ValueError):
        following = None
    if following is None or (following.scheme != "https" and not insecure):
        to = "an invalid address" if following is None else f"{following.shown}, which is not an https:// URL"
        raise address.unusable(
            f"the server redirects to {to}",
            f"Open the link in a browser and use the https:// address that it leads to, or save the {address.what} "
            "and give its path.",
        )
    return following


def _check_answer(response: Any, address: Address) -> None:
    """Raise an error unless the response contains a script."""
    status, host, where = response.status, address.host, address.where
    private = f" Set {GITHUB_TOKEN} to a token that may read private repositories." if host in GITHUB_HOSTS else ""
    if status in (404, 410):
        raise ScriptNotFoundError(
            f"the {address.what} was not found on {host} (status {status})",
            about=address.shown,
            where=where,
            hint=f"Check the link. Many servers also give this answer for private files.{private}",
        )
    if status in (401, 403, 407):
        raise CetoolError(
            f"{host} refuses access (status {status})",
            about=address.shown,
            code="url-unauthorized",
            where=where,
            hint="Log in with https://USER:PASSWORD@HOST/... or an entry in ~/.netrc, "
            f"or save the {address.what} and give its path.{private}",
        )
    if status not in (200, 203):
        later = status == 429 or status >= 500
        raise (UnreachableError if later else CetoolError)(
            f"{host} answers with status {status} instead of the {address.what}",
            where=where,
            hint="Try again later." if later else "Open the link in a browser.",
        )
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _is_page(address)
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise address.unusable(
            f"{host} sends the {address.what} compressed, which cetool does not support",
            f"Save the {address.what} and give its path.",
        )


def _is_page(address: Address) -> CetoolError:
    raw = likely_raw(address)
    link = f" This may be {strip_credentials(raw)}." if raw else ""
    return address.unusable(
        f"the URL leads to a web page, not to a {address.what}",
        f"Use the link to the file itself, often called 'Raw'.{link} "
        "If the file is private, the page may be a login page.",
    )


def _read(response: Any, address: Address, stop: threading.Event) -> bytes:
    """Read the whole body: an incomplete script must never run."""
    expected: int | None = response.length
    data = bytearray()
    while expected is None or len(data) < expected:
        if max(len(data), expected or 0) > MAX_SIZE:
            raise address.unusable(
                f"the {address.what} is larger than {MAX_SIZE // 1024 // 1024} MiB", "Move data to a separate file."
            )
        if stop.is_set():  # the caller has stopped waiting
            break
        # not read(): it would wait for the whole chunk
        chunk = response.read1(_CHUNK if expected is None else min(_CHUNK, expected - len(data)))
        if not chunk:
            break
        data += chunk
    if expected is not None and len(data) < expected:
        raise address.unusable(
            f"the connection was lost after {len(data)} of {expected} bytes", "Try again.", code="url-unreachable"
        )
    return bytes(data)


def _failure(error: Exception, address: Address, timeout: float) -> UnreachableError:
    """Return the error for a failed connection."""
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
        hint = f"The request went through a proxy: also check {address.scheme}_proxy and no_proxy."
    if isinstance(error, TimeoutError):
        said = f"{host} did not answer within {timeout:g} seconds"
    elif isinstance(error, socket.gaierror):
        said = f"cannot find the address of {host} ({error.strerror})"
    elif isinstance(error, ConnectionRefusedError):
        said = f"{host} refused the connection"
    elif isinstance(error, (ConnectionResetError, http.client.IncompleteRead)):
        said = f"the connection to {host} was lost"
        hint = "Try again."
    elif isinstance(error, ssl.SSLCertVerificationError):
        said = f"the certificate of {host} is not valid: {error.verify_message}"
        hint = "Check the system clock. If your network has its own certificate authority, set SSL_CERT_FILE."
    elif isinstance(error, ssl.SSLError):
        said = f"no secure connection to {host}: {(error.reason or 'it was lost').replace('_', ' ').lower()}"
    elif isinstance(error, http.client.HTTPException):
        said = f"{host} did not send a valid HTTP response"
    elif isinstance(error, OSError):
        said = f"cannot connect to {host}: {printable(error.strerror or str(error) or type(error).__name__)}"
    else:
        said = f"cannot send a request to {host} ({type(error).__name__})"
    return UnreachableError(said, where=address.where, hint=hint)
