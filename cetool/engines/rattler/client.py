"""Give the embedded engine access to channels: credentials, mirrors, proxies, certificates.

rattler gets only URLs without credentials, so that none can be written to its caches or to package records. They are
added when a request is sent: a ``/t/TOKEN/`` by a mirror of the channel, a ``user:secret@`` by a header. rattler itself
adds credentials from ``netrc`` and its own stores.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cetool.base.errors import EngineError
from cetool.base.urls import Url, redact, strip_credentials
from cetool.declare.channels import resolve_channel
from cetool.engines.private import parts_of
from cetool.settings.condarc import Condarc

if TYPE_CHECKING:
    from rattler.networking import Client

#: The variables of the process that rattler reads when a client is created.
_READ_BY_RATTLER = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "RATTLER_AUTH_FILE", "HOME"),
)
#: What it looks for in the home directory: if nothing of this exists, the home directory is irrelevant.
_IN_HOME = (".netrc", ".rattler")
_RETRIES = 3


class OfflineError(Exception):
    """A request was attempted although the network must not be used."""


class Access:
    """Access to a set of channels: the credentials that must be added to requests for the URLs that rattler gets.

    py-rattler's callback for headers gets only host and path, so a password could be sent to another port, or without
    TLS. Therefore a channel with a login is mirrored twice: its URL (scheme, host, port and path) to a random host name
    that does not exist, for which the callback returns the headers; and this host name to the channel.
    """

    def __init__(self) -> None:
        self.mirrors: dict[str, list[str]] = {}
        self._logins: dict[str, Url] = {}  # by their target, which is without the login
        self._others: list[str] = []

    def plain(self, url: str) -> str:
        """Return the URL without credentials, and remember these for requests below it."""
        bare = strip_credentials(url).rstrip("/")
        target = self._target(url)
        self._others.append(target)
        if target != bare + "/" or target in self._logins:
            self.mirrors.setdefault(bare + "/", [target])
        return bare

    def mirror(self, url: str, mirrors: tuple[str, ...]) -> None:
        """Send requests below ``url`` to the first of the mirrors that works."""
        self.mirrors[strip_credentials(url).rstrip("/") + "/"] = [self._target(mirror) for mirror in mirrors]

    def _target(self, url: str) -> str:
        """Return the URL with its token but without the login, which becomes a header for everything below it."""
        parts = parts_of(url.rstrip("/"))
        target = parts.joined(login=False).rstrip("/") + "/"
        if parts.userinfo is not None:
            self._logins.setdefault(target, parts)
        return target

    @property
    def secret(self) -> bool:
        """Whether any credentials were removed from URLs."""
        return bool(self._logins) or any(strip_credentials(each) != each for each in self._all_targets())

    def _all_targets(self) -> list[str]:
        return [target for targets in self.mirrors.values() for target in targets]

    def origins_of(self, url: str) -> list[str]:
        """Return the channels for which a URL is requested, as URLs that end with a slash."""
        url = strip_credentials(url)
        return [
            origin
            for origin, targets in self.mirrors.items()
            if any(url.startswith(strip_credentials(target)) for target in targets)
        ]

    def stages(self) -> tuple[dict[str, list[str]], dict[str, dict[str, str]], dict[str, list[str]]]:
        """Return the mirrors applied before the headers, the headers by host, and the mirrors applied after them."""
        first = dict(self.mirrors)
        headers: dict[str, dict[str, str]] = {}
        second: dict[str, list[str]] = {}
        for target, parts in self._logins.items():
            host = f"{secrets.token_hex(16)}.invalid"  # RFC 6761: never the name of a host
            first = {
                origin: [f"http://{host}/" if each == target else each for each in targets]
                for origin, targets in first.items()
            }
            headers[host] = {"Authorization": parts.basic or ""}
            second[f"http://{host}/"] = [target]
        return first, headers, second

    def by_host(self) -> dict[str, tuple[str, str]]:
        """Return user and password by host, for a client that can only distinguish hosts.

        Raises EngineError if this would send them to another port, scheme or channel.
        """
        found: dict[str, Url] = {}
        for parts in self._logins.values():
            other = found.setdefault(parts.host, parts)
            if (other.origin, other.login) != (parts.origin, parts.login):
                raise _ambiguous(parts, other)
        for url in (*self.mirrors, *self._all_targets(), *self._others):
            near = parts_of(url)
            if near.host in found and near.origin != found[near.host].origin:
                raise _ambiguous(found[near.host], near)
        return {
            host: (user.decode("utf-8", "replace"), password.decode("utf-8", "replace"))
            for host, parts in found.items()
            for user, password in [parts.login or (b"", b"")]
        }


def _ambiguous(login: Url, other: Url) -> EngineError:
    return EngineError(
        f"the password for {redact(login.joined(login=False))} could be sent to {redact(other.joined(login=False))}: "
        "without ssl_verify the embedded engine can only distinguish hosts",
        code="secret-refused",
        hint="Set ssl_verify in .condarc to the file of your organization's certificates, or use another --engine.",
    )


def access_to(condarc: Condarc) -> Access:
    """Return the access with the mirrors of conda's configuration."""
    access = Access()
    for name, mirrors in condarc.mirrored_channels.items():
        urls = tuple(url for mirror in mirrors for url in resolve_channel(mirror, condarc))
        for origin in resolve_channel(name, condarc):
            if urls and urls != (origin,):
                access.mirror(origin, urls)
    return access


def process_variables(condarc: Condarc, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that the process must change for rattler to use these variables and this configuration.

    The value is None for a variable that must be unset. Raises EngineError for certificates that do not exist.
    """
    wanted = {name: environ.get(name) for name in _READ_BY_RATTLER} | _network_variables(condarc, environ)
    if _netrc_blocks(environ):
        wanted["NETRC"] = os.devnull
    homes = {environ.get("HOME"), os.environ.get("HOME")} - {None}
    if not any(os.path.exists(os.path.join(str(home), name)) for home in homes for name in _IN_HOME):
        del wanted["HOME"]
    return {name: value for name, value in wanted.items() if value != os.environ.get(name)}


def _netrc_blocks(environ: Mapping[str, str]) -> bool:
    """Return whether netrc is a pipe or the like, on which rattler would wait forever; it is ignored."""
    path = Path(environ.get("NETRC") or os.path.join(environ.get("HOME") or "/", ".netrc"))
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


def make_client(
    access: Access, condarc: Condarc, environ: Mapping[str, str], *, offline: bool, alive: Callable[[], None]
) -> Client:
    """Return a client for metadata and packages; ``alive`` is called for every request. Raises EngineError."""
    from rattler.networking import Client
    from rattler.networking.middleware import (
        AddHeadersMiddleware,
        AuthenticationMiddleware,
        GCSMiddleware,
        MirrorMiddleware,
        OciMiddleware,
        RetryMiddleware,
        S3Middleware,
    )

    first, headers_of, second = access.stages()

    def headers(host: str, path: str) -> dict[str, str] | None:
        if offline:
            raise OfflineError("the network must not be used")
        alive()
        return headers_of.get(host)

    retries = 0 if offline else (_RETRIES if condarc.remote_max_retries is None else condarc.remote_max_retries)
    if condarc.ssl_verify is False and not offline:
        return _unverifying_client(access, max(retries, 0), environ)
    middlewares: list[Any] = [
        *([RetryMiddleware(retries)] if retries > 0 else []),
        *([MirrorMiddleware(first)] if first else []),
        AddHeadersMiddleware(headers),
        *([MirrorMiddleware(second)] if second else []),
        AuthenticationMiddleware(),
        *(OciMiddleware(), GCSMiddleware(), S3Middleware()),
    ]
    return Client(middlewares)


def _unverifying_client(access: Access, retries: int, environ: Mapping[str, str]) -> Client:
    """Return a client that accepts any certificate.

    This requires a rattler configuration, which does not support headers: logins are passed in a private file, which is
    removed after it is read.
    """
    import tempfile

    from rattler import Client, Config

    config = Config()
    config.set("tls-no-verify", "true")
    if access.mirrors:
        config.set("mirrors", json.dumps(access.mirrors))
    logins = {
        host: {"BasicHTTP": {"username": user, "password": password}}
        for host, (user, password) in access.by_host().items()
    }
    if not logins or "RATTLER_AUTH_FILE" in environ:
        return Client.from_config(config, max_retries=retries)
    handle, name = tempfile.mkstemp(prefix="cetool-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(logins, file)
        config.set("authentication-override-file", name)
        return Client.from_config(config, max_retries=retries)
    finally:
        with suppress(OSError):
            Path(name).unlink()


def _network_variables(condarc: Condarc, environ: Mapping[str, str]) -> dict[str, str]:
    """Return proxies and certificates of the configuration as the variables that rattler's HTTP client reads."""
    variables: dict[str, str] = {}
    for key, proxy in condarc.proxy_servers.items():
        name = f"{key}_proxy"
        if key in ("http", "https", "all") and not (environ.get(name) or environ.get(name.upper())):
            variables[name] = proxy
    certificates = condarc.ssl_verify if isinstance(condarc.ssl_verify, str) else None
    certificates = certificates or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    if certificates and condarc.ssl_verify is not False:
        path = Path(certificates)
        if not path.exists():
            raise EngineError(
                f"the certificate file '{certificates}' does not exist",
                code="setting-invalid",
                hint="Correct ssl_verify in .condarc, or the variable CONDA_SSL_VERIFY, REQUESTS_CA_BUNDLE or "
                "CURL_CA_BUNDLE.",
            )
        variables["SSL_CERT_DIR" if path.is_dir() else "SSL_CERT_FILE"] = certificates
    return variables
