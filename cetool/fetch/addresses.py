"""A script's URL as an address that may be asked for: checked, in ASCII, its credentials held apart.

What authenticates a request for a script: the URL's user, GitHub's token, ``~/.netrc``; each to its host only.
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
_ALPHABET = "%/:=&?~+!$,;'@()*[]"  # of a URL: these and what quote() leaves alone stay as they are


@dataclass(frozen=True)
class Address:
    """A URL that may be asked for."""

    #: In ASCII, without user, password and fragment.
    url: str
    scheme: str
    host: str
    #: Scheme, host and port.
    origin: str
    #: What authenticates there.
    basic: str | None
    #: What followed the ``#``, which servers are not told.
    fragment: str = ""
    #: What is there, for messages.
    what: str = "script"

    @property
    def shown(self) -> str:
        """The URL as it may be shown and stored."""
        return strip_credentials(self.url)

    @property
    def where(self) -> Location:
        """The place that messages name."""
        return Location(self.shown)

    def unusable(self, message: str, hint: str, code: str = "url-unusable") -> CetoolError:
        """The error for what the server answers."""
        return CetoolError(message, code=code, where=self.where, hint=hint)

    @property
    def key(self) -> str:
        """What stands for the whole URL, tokens in its query included, and tells nothing of it (SHA-256, 64 digits)."""
        return sha256_of(f"{self.url}#{self.fragment}".encode("utf-8", "surrogatepass"))

    @property
    def file_name(self) -> str:
        """The last part of the path, decoded, without what cannot be in a file's name; may be empty."""
        last = split_url(self.url).decoded_path.rpartition("/")[2]
        return "".join(char for char in last if char.isprintable() and char not in "/\\").strip(" .")


def parse_address(text: str, what: str = "script") -> Address:
    """The address that a script's URL (or of ``what``) names. Raises UsageError, which never shows a password."""
    found = _SCHEME.match(text)
    scheme = "" if found is None else found[1].lower()
    where = Location(printable(strip_credentials(text)))
    if scheme == "file":
        message = f"a {what}'s file is given by its path, not by a file:// URL"
        raise UsageError(message, code="url-invalid", where=where, hint="Write the path alone.")
    if scheme not in ("http", "https"):
        hint = "Fetch it with what can, and give its path."
        raise UsageError("this is no https:// URL", code="url-invalid", where=where, hint=hint)
    if bad := _NOT_IN_URLS.search(text):
        message = f"there is a character in this URL that none can have: {bad[0]!r}"
        hint = "Put quotes around a URL in a shell, and copy all of it; a blank in one is written %20."
        raise UsageError(message, code="url-invalid", where=where, hint=hint)
    try:
        parts = split_url(text)
        host = _ascii_host(parts.host.removeprefix("[").removesuffix("]"))
    except ValueError:  # UnicodeError too
        hint = f"https://HOST/PATH/{'script.py' if what == 'script' else 'standard.txt'}"
        message = "there is no valid host in this URL"
        raise UsageError(message, code="url-invalid", where=where, hint=hint) from None
    port = "" if parts.port in (None, 443 if scheme == "https" else 80) else f":{parts.port}"
    origin = f"{scheme}://{f'[{host}]' if ':' in host else host}{port}"
    target = quote(parts.path or "/", safe=_ALPHABET)
    query = f"?{quote(parts.query, safe=_ALPHABET)}" if parts.query else ""
    return Address(origin + target + query, scheme, host, origin, parts.basic, parts.fragment or "", what)


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


#: The variable with a token for scripts in private repositories on GitHub.
GITHUB_TOKEN = "CETOOL_GITHUB_TOKEN"
#: GitHub's own hosts that serve or tell of files; ``github.io`` and what else its users fill are not among them.
GITHUB_HOSTS = frozenset(
    {"github.com", "www.github.com", "api.github.com", "raw.githubusercontent.com"}
    | {"gist.github.com", "gist.githubusercontent.com"}
)


def authorization(address: Address, environ: Mapping[str, str], *, basic: str | None = None) -> str | None:
    """The header ``Authorization`` for one request, None for none.

    ``basic`` is what the URL itself brought for this scheme, host and port, and comes first. A token and a password
    from ``~/.netrc`` go over HTTPS only. Raises ConfigError for a token that cannot be one.
    """
    if basic is not None or address.scheme != "https":
        return basic
    if address.origin.removeprefix("https://") in GITHUB_HOSTS:  # with the usual port
        token = environ.get(GITHUB_TOKEN, "").strip()
        if token:
            remember(token)
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                message, hint = "the token holds a character that none can have", "Copy it once more, alone and whole."
                raise ConfigError(message, where=Location(GITHUB_TOKEN), hint=hint)
            return f"token {token}"
    return _from_netrc(address.host, environ)


def _from_netrc(host: str, environ: Mapping[str, str]) -> str | None:
    """What ``NETRC`` or ``~/.netrc`` has for this host by name; its ``default`` would go to everybody."""
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
        return None  # open to others, or malformed: as if there were none, as curl and requests have it
    if entry is None:
        return None
    user, _, password = entry
    remember(password or "")
    return basic_authorization((user or "").encode(), (password or "").encode())
