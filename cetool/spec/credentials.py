"""What authenticates a request for a script: the URL's user, GitHub's token, ``~/.netrc``; each to its host only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cetool.errors import ConfigError, Location
from cetool.limits import SETTINGS
from cetool.paths import home_directory
from cetool.spec.addresses import Address
from cetool.spec.secrets import remember
from cetool.spec.urls import basic_authorization

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
            return f"token {_checked(token)}"
    return _from_netrc(address.host, environ)


def _checked(token: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigError(
            "the token holds a character that none can have",
            where=Location(GITHUB_TOKEN),
            hint="Copy it once more, alone and whole.",
        )
    return token


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
