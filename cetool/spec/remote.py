"""A script's bytes from a URL, over HTTPS, within limits of time and size, its credentials kept out of sight."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urljoin, urlsplit

from cetool.errors import CetoolError, Location, ScriptNotFoundError, UsageError
from cetool.spec.channels import strip_credentials
from cetool.spec.source import MAX_SIZE, printable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f-\xa0\s<>\"\\\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
# what storage services sign a link with, and GitLab's token: whoever has it can read the file
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
#: The whole download may take this many times the seconds of silence that are allowed.
_TOTAL_FACTOR = 4
_CHUNK = 64 * 1024
_ALPHABET = "%/:=&?~+!$,;'@()*[]"  # of a URL: these and what quote() leaves alone stay as they are


@dataclass(frozen=True)
class Fetched:
    """A script that was fetched.

    ``url`` is where it lay in the end, without credentials; ``name`` is its file name, printable, without slashes.
    """

    url: str
    data: bytes
    name: str


@dataclass(frozen=True)
class _Address:
    """An ASCII URL that may be asked for, without user, password and fragment; ``basic`` authenticates there."""

    url: str
    scheme: str
    host: str
    origin: str
    basic: str | None

    @property
    def shown(self) -> str:
        return strip_credentials(self.url)

    @property
    def where(self) -> Location:
        return Location(self.shown)


def fetch_script(url: str, *, insecure: bool = False, timeout: float = 30.0) -> Fetched:
    """Fetch a script.

    Links to the pages that GitHub, Gist and GitLab show a file on become those of the files. ``insecure`` lets plain
    HTTP pass; certificates are checked all the same. ``timeout`` is for how many seconds a server may be silent; all of
    it may take four times that. A user and password in the URL are sent to that scheme, host and port only.

    Raises UsageError for a URL that cannot be used, ScriptNotFoundError where there is no such file, CetoolError where
    it cannot be had, is a page instead of a script, or is larger than ``MAX_SIZE``.
    """
    address = _raw_file(_parse(url))
    if address.scheme != "https" and not insecure:
        raise UsageError(
            "a script is not fetched over plain http://, where anybody on the way can change it",
            where=address.where,
            hint="Write https:// if the server has it; --insecure fetches it as it is.",
        )
    limit = timeout * _TOTAL_FACTOR
    fetched = _within(limit, lambda stop: _follow(address, insecure, timeout, stop))
    if fetched is None:
        raise CetoolError(
            f"the script was not here after {limit:g} seconds",
            where=address.where,
            hint="Try again, or save it in a file.",
        )
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


# --- addresses ------------------------------------------------------------------------------------------------------


def _parse(text: str) -> _Address:
    """The address that a URL names. Raises UsageError; what it says never shows a password."""
    scheme = _SCHEME.match(text)
    shown = Location(printable(_hide_all(text)))
    if scheme is None or scheme[1].lower() not in ("http", "https"):
        is_file = scheme is not None and scheme[1].lower() == "file"
        raise UsageError(
            "a script's file is given by its path, not by a file:// URL" if is_file else "this is no https:// URL",
            where=shown,
            hint="Write the path alone." if is_file else "Fetch it with what can, and give its path.",
        )
    bad = _NOT_IN_URLS.search(text)
    if bad is not None:
        raise UsageError(
            f"there is a character in this URL that none can have: {bad[0]!r}",
            where=shown,
            hint="Put quotes around a URL in a shell, and copy all of it; a blank in one is written %20.",
        )
    try:
        parts = urlsplit(text)
        host, port = _ascii_host(parts.hostname or ""), parts.port
    except ValueError:  # UnicodeError too
        raise UsageError(
            "there is no valid host in this URL", where=shown, hint="https://HOST/PATH/script.py"
        ) from None
    return _address(parts, host, port)


def _address(parts: SplitResult, host: str, port: int | None) -> _Address:
    shown_host = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    origin = f"{parts.scheme}://{shown_host}" + ("" if port in (None, default) else f":{port}")
    target = quote(parts.path or "/", safe=_ALPHABET)
    query = f"?{quote(parts.query, safe=_ALPHABET)}" if parts.query else ""
    basic = None
    user, at, _ = parts.netloc.rpartition("@")
    if at:
        import base64

        name, _, password = user.partition(":")
        given = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
        basic = "Basic " + base64.b64encode(given).decode("ascii")
    return _Address(origin + target + query, parts.scheme, host, origin, basic)


def _ascii_host(host: str) -> str:
    """The host in ASCII (IDNA), lower case. Raises ValueError for what can be none."""
    if ":" in host:
        import ipaddress

        ipaddress.IPv6Address(host)
        return host
    name = host.encode("idna").decode("ascii").lower()
    if not all(_HOST_LABEL.match(label) for label in name.removesuffix(".").split(".")):
        raise ValueError(host)
    return name


def _hide_all(text: str) -> str:
    """A URL that may not parse, without anything that its writer could have meant as credentials."""
    head, separator, rest = text.partition("://")
    return strip_credentials(head + separator + rest.rpartition("@")[2])


def _raw_file(address: _Address) -> _Address:
    """The address of the file itself where this is that of the page which shows it; else the same.

    A user and password go along only where the host stays.
    """
    parts = urlsplit(address.url)
    path = parts.path
    if address.host in ("github.com", "www.github.com"):
        blob = re.match(r"/([^/]+)/([^/]+)/blob/([^/]+/.+)\Z", path)
        if blob is not None:
            return _parse(f"{parts.scheme}://raw.githubusercontent.com/{blob[1]}/{blob[2]}/{blob[3]}")
    elif address.host == "gist.github.com":
        gist = re.match(r"((?:/[^/]+)?/[0-9a-f]{20,40})(/[0-9a-f]{40})?/?\Z", path)
        if gist is not None:
            path = f"{gist[1]}/raw{gist[2] or ''}"
    elif "/-/blob/" in path:
        path = path.replace("/-/blob/", "/-/raw/", 1)
    if path == parts.path:
        return address
    return replace(address, url=address.url.replace(parts.path, path, 1))


def _name(asked: _Address, final: _Address) -> str:
    """A file name out of the URLs: the one asked for unless only the one it led to has a suffix."""
    names = []
    for address in (asked, final):
        last = unquote(urlsplit(address.url).path.rpartition("/")[2])
        name = "".join(char for char in last if char.isprintable() and char not in "/\\").strip(" .")
        names.append(name)
    named = next((name for name in names if "." in name), names[0] or names[1])
    return named or "script"


# --- the download ---------------------------------------------------------------------------------------------------


def _follow(address: _Address, insecure: bool, timeout: float, stop: threading.Event) -> Fetched:
    """Ask, follow redirects, read."""
    import http.client

    asked = address
    basic: dict[str, str] = {}
    for _ in range(_MOST_REDIRECTS + 1):
        if address.basic is not None:
            basic[address.origin] = address.basic
        # every error is told of the address that it happened at, which may be another server's than was asked
        try:
            with _open(address, basic.get(address.origin), timeout) as response:
                target = response.headers.get("Location") if response.status in _REDIRECTS else None
                if target is None:
                    _check_answer(response, address)
                    return Fetched(address.shown, _read(response, address, stop), _name(asked, address))
        except CetoolError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a proxy's URL is malformed
            raise _failure(error, address, timeout) from None
        address = _redirected(address, target, insecure)
    raise CetoolError(
        f"the server sends the request on more than {_MOST_REDIRECTS} times",
        where=asked.where,
        hint="Open the link in a browser, and give the address that it ends at.",
    )


def _open(address: _Address, basic: str | None, timeout: float) -> Any:
    """The response, whatever its status; redirects are not followed here."""
    import ssl
    import urllib.request as web

    opener = web.OpenerDirector()  # not build_opener's: a server must not lead to a file: or data: URL
    https = web.HTTPSHandler(context=ssl.create_default_context())
    # the last one refuses proxies of kinds that urllib does not know
    for handler in (web.ProxyHandler(), web.HTTPHandler(), https, web.UnknownHandler()):
        opener.add_handler(handler)
    request = web.Request(address.url, headers={"User-Agent": "cetool", "Accept": "text/plain, */*;q=0.8"})
    if basic is not None:
        request.add_header("Authorization", basic)
    return opener.open(request, timeout=timeout)


def _redirected(address: _Address, target: str, insecure: bool) -> _Address:
    try:
        # http.client reads headers as Latin-1; servers that write more than ASCII there write UTF-8
        target = target.encode("latin-1").decode("utf-8", "replace").strip().replace(" ", "%20")
        following = _parse(urljoin(address.url, target))
    except (UsageError, ValueError):
        following = None
    if following is None or (following.scheme != "https" and not insecure):
        to = "an address that cannot be used" if following is None else f"{following.shown}, which is not HTTPS"
        raise CetoolError(
            f"the server sends the request on to {to}",
            where=address.where,
            hint="Open the link in a browser, and give the https:// address that it ends at, or save the script.",
        )
    return following


def _check_answer(response: Any, address: _Address) -> None:
    """Raise for any answer but a script that can be read."""
    status, host, where = response.status, address.host, address.where
    if status in (404, 410):
        raise ScriptNotFoundError(
            f"{host} has no such script (status {status})",
            where=where,
            hint="Check the link; for a private file many servers answer so as well.",
        )
    if status in (401, 403, 407):
        raise CetoolError(
            f"{host} does not let you read it (status {status})",
            where=where,
            hint="It needs other rights: https://USER:PASSWORD@HOST/..., or save the script and give its path.",
        )
    if status not in (200, 203):
        later = status == 429 or status >= 500
        raise CetoolError(
            f"{host} answers with status {status} instead of the script",
            where=where,
            hint="Try again later." if later else "Look at the link in a browser.",
        )
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise CetoolError(
            "this is a web page, not a script",
            where=where,
            hint="Give the link to the file itself: where a site shows a file, the one called 'Raw'. "
            "It may also be the page to log in on, for a file that is private.",
        )
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise CetoolError(
            f"{host} sends the script compressed, which was not asked for",
            where=where,
            hint="Save it and give its path.",
        )


def _read(response: Any, address: _Address, stop: threading.Event) -> bytes:
    """The body, all of it: half a script must never run."""
    expected: int | None = response.length
    data = bytearray()
    while expected is None or len(data) < expected:
        if max(len(data), expected or 0) > MAX_SIZE:
            raise CetoolError(
                f"the script is larger than {MAX_SIZE // 1024 // 1024} MiB",
                where=address.where,
                hint="Keep data in a file of its own.",
            )
        if stop.is_set():  # nobody waits any more
            break
        # not read(): that one waits until it has as much as was asked for
        chunk = response.read1(_CHUNK if expected is None else min(_CHUNK, expected - len(data)))
        if not chunk:
            break
        data += chunk
    if expected is not None and len(data) < expected:
        raise CetoolError(
            f"the connection broke off after {len(data)} of {expected} bytes", where=address.where, hint="Try again."
        )
    return bytes(data)


def _failure(error: Exception, address: _Address, timeout: float) -> CetoolError:
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
    return CetoolError(said, where=address.where, hint=hint)
