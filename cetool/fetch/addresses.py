"""Parse a script's URL into an address: checked, in ASCII, credentials separate.

Credentials for a request come from the URL, a GitHub token, or ``~/.netrc``; each is sent only to its own host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, ConfigError, Location, UsageError
from cetool.base.limits import SETTINGS
from cetool.base.text import printable, remember
from cetool.base.urls import basic_authorization, split_url, strip_credentials
from cetool.settings.paths import home_directory

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f-\xa0\s<>\"\\\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_ALPHABET = "%/:=&?~+!$,;'@()*[]"  # not escaped in URLs, in addition to what quote() leaves alone


@dataclass(frozen=True)
class Address:
    """A URL that can be requested."""

    #: In ASCII, without user, password and fragment.
    url: str
    scheme: str
    host: str
    #: Scheme, host and port.
    origin: str
    #: The value of the ``Authorization`` header from the URL's user and password; None if it has none.
    basic: str | None
    #: The part after ``#``, which is not sent to servers.
    fragment: str = ""
    #: What the URL leads to, for messages.
    what: str = "script"

    @property
    def shown(self) -> str:
        """The URL without credentials, to be shown and stored."""
        return strip_credentials(self.url)

    @property
    def where(self) -> Location:
        """The location for error messages."""
        return Location(self.shown)

    def unusable(self, message: str, hint: str, code: str = "url-unusable") -> CetoolError:
        """Return the error for an unusable answer of the server."""
        return CetoolError(message, code=code, where=self.where, hint=hint)

    @property
    def key(self) -> str:
        """A digest of the whole URL, including tokens in its query, that reveals nothing of it (SHA-256, 64 digits)."""
        return sha256_of(f"{self.url}#{self.fragment}".encode("utf-8", "surrogatepass"))

    @property
    def file_name(self) -> str:
        """The last part of the path, decoded, without characters that file names cannot have; may be empty."""
        last = split_url(self.url).decoded_path.rpartition("/")[2]
        return "".join(char for char in last if char.isprintable() and char not in "/\\").strip(" .")


def parse_address(text: str, what: str = "script") -> Address:
    """Parse the URL of a script (or of ``what``). Raises UsageError, which never shows a password."""
    found = _SCHEME.match(text)
    scheme = "" if found is None else found[1].lower()
    where = Location(printable(strip_credentials(text)))
    if scheme == "file":
        message = "file:// URLs are not supported"
        raise UsageError(message, code="url-invalid", where=where, hint="Give the path of the file instead.")
    if scheme not in ("http", "https"):
        hint = f"Download the {what} with another program and give its path."
        raise UsageError("not an https:// URL", code="url-invalid", where=where, hint=hint)
    if bad := _NOT_IN_URLS.search(text):
        message = f"the URL contains an invalid character: {bad[0]!r}"
        hint = "Copy the whole URL, quote it in a shell, and write %20 for a space."
        raise UsageError(message, code="url-invalid", where=where, hint=hint)
    try:
        parts = split_url(text)
        host = _ascii_host(parts.host.removeprefix("[").removesuffix("]"))
    except ValueError:  # UnicodeError too
        hint = f"https://HOST/PATH/{'script.py' if what == 'script' else 'standard.txt'}"
        message = "the URL has no valid host name"
        raise UsageError(message, code="url-invalid", where=where, hint=hint) from None
    port = "" if parts.port in (None, 443 if scheme == "https" else 80) else f":{parts.port}"
    origin = f"{scheme}://{f'[{host}]' if ':' in host else host}{port}"
    target = quote(parts.path or "/", safe=_ALPHABET)
    query = f"?{quote(parts.query, safe=_ALPHABET)}" if parts.query else ""
    return Address(origin + target + query, scheme, host, origin, parts.basic, parts.fragment or "", what)


def _ascii_host(host: str) -> str:
    """Return the host name in ASCII (IDNA), lower case. Raises ValueError if it is invalid."""
    if ":" in host:
        import ipaddress

        ipaddress.IPv6Address(host)
        return host
    name = host.encode("idna").decode("ascii").lower()
    if not all(_HOST_LABEL.match(label) for label in name.removesuffix(".").split(".")):
        raise ValueError(host)
    return name


#: The variable with a token for scripts in private repositories on GitHub.
GITHUB_TOKEN = "CETOOL_GITHUB_TOKEN"
#: Hosts of GitHub that serve or list files. ``github.io`` and other hosts whose content users control are excluded.
GITHUB_HOSTS = frozenset(
    {"github.com", "www.github.com", "api.github.com", "raw.githubusercontent.com"}
    | {"gist.github.com", "gist.githubusercontent.com"}
)


def authorization(address: Address, environ: Mapping[str, str], *, basic: str | None = None) -> str | None:
    """Return the ``Authorization`` header for one request; None for no header.

    ``basic`` comes from the URL itself for this scheme, host and port, and takes precedence. A token, or a password
    from ``~/.netrc``, is sent over HTTPS only. Raises ConfigError if the token is malformed.
    """
    if basic is not None or address.scheme != "https":
        return basic
    if address.origin.removeprefix("https://") in GITHUB_HOSTS:  # with the usual port
        token = environ.get(GITHUB_TOKEN, "").strip()
        if token:
            remember(token)
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                message, hint = "the token contains an invalid character", "Copy the token again, without line breaks."
                raise ConfigError(message, where=Location(GITHUB_TOKEN), hint=hint)
            return f"token {token}"
    return _from_netrc(address.host, environ)


def _from_netrc(host: str, environ: Mapping[str, str]) -> str | None:
    """Return the header from the entry for this host in ``NETRC`` or ``~/.netrc``.

    The ``default`` entry is ignored, since it would be sent to every host.
    """
    home = home_directory(environ)
    path = environ.get("NETRC") or (None if home is None else os.path.join(home, ".netrc"))
    if path is None or not os.path.isfile(path):
        return None
    import netrc

    try:
        if os.path.getsize(path) > SETTINGS:
            return None
        entry = netrc.netrc(path).hosts.get(host)
    except (OSError, netrc.NetrcParseError, ValueError):
        return None  # readable by others, or malformed: ignored, as curl and requests do
    if entry is None:
        return None
    user, _, password = entry
    remember(password or "")
    return basic_authorization((user or "").encode(), (password or "").encode())


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or address, is this machine."""
    from ipaddress import ip_address  # few runs need it

    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
