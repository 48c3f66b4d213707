"""How the embedded engine reaches channels: credentials, mirrors, proxies, certificates.

rattler is only ever told the URLs of channels without their credentials, so that none can get into its caches or into
the records it writes. They are put back on the wire: a ``/t/TOKEN/`` by a mirror of the channel, a ``user:secret@`` by
a header. What ``netrc`` and rattler's own credential stores hold is added by rattler itself.
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

#: What rattler reads of the process's variables when a client is made.
_READ_BY_RATTLER = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "RATTLER_AUTH_FILE", "HOME"),
)
#: What it looks for at home: without any of it the home does not matter.
_IN_HOME = (".netrc", ".rattler")
_RETRIES = 3


class OfflineError(Exception):
    """A request was about to be made although the network is not to be used."""


class Access:
    """The way to a set of channels: what has to be put back into requests for the URLs that rattler gets.

    py-rattler asks for headers by host and path alone, which could send a password to another port, or without TLS. So
    a channel with a login is mirrored twice: its URL, which is scheme, host, port and path, to a host that does not
    exist and that nothing else can name, for which the headers are asked for; and that one to the channel.
    """

    def __init__(self) -> None:
        self.mirrors: dict[str, list[str]] = {}
        self._logins: dict[str, Url] = {}  # by their target, which is without the login
        self._others: list[str] = []

    def plain(self, url: str) -> str:
        """The URL without credentials, which are remembered for requests below it."""
        bare = strip_credentials(url).rstrip("/")
        target = self._target(url)
        self._others.append(target)
        if target != bare + "/" or target in self._logins:
            self.mirrors.setdefault(bare + "/", [target])
        return bare

    def mirror(self, url: str, mirrors: tuple[str, ...]) -> None:
        """Requests below ``url`` go to the mirrors instead, to the first that works."""
        self.mirrors[strip_credentials(url).rstrip("/") + "/"] = [self._target(mirror) for mirror in mirrors]

    def _target(self, url: str) -> str:
        """The URL with its token but without the login, which becomes a header for everything below it."""
        parts = parts_of(url.rstrip("/"))
        target = parts.joined(login=False).rstrip("/") + "/"
        if parts.userinfo is not None:
            self._logins.setdefault(target, parts)
        return target

    @property
    def secret(self) -> bool:
        """Whether any credentials had to be taken out."""
        return bool(self._logins) or any(strip_credentials(each) != each for each in self._all_targets())

    def _all_targets(self) -> list[str]:
        return [target for targets in self.mirrors.values() for target in targets]

    def origins_of(self, url: str) -> list[str]:
        """The URLs, each with a slash at its end, of the channels that a URL is requested for."""
        url = strip_credentials(url)
        return [
            origin
            for origin, targets in self.mirrors.items()
            if any(url.startswith(strip_credentials(target)) for target in targets)
        ]

    def stages(self) -> tuple[dict[str, list[str]], dict[str, dict[str, str]], dict[str, list[str]]]:
        """The mirrors in front of the headers, the headers by host, and the mirrors behind them."""
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
        """User and password by host, for a client that knows no more of a request.

        Raises EngineError where that would send them anywhere but to where they belong.
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
        "without ssl_verify the embedded engine knows passwords by their host only",
        code="secret-refused",
        hint="Set ssl_verify in .condarc to the file of your organisation's certificates, or use another --engine.",
    )


def access_to(condarc: Condarc) -> Access:
    """The access that the configuration gives: its mirrors."""
    access = Access()
    for name, mirrors in condarc.mirrored_channels.items():
        urls = tuple(url for mirror in mirrors for url in resolve_channel(mirror, condarc))
        for origin in resolve_channel(name, condarc):
            if urls and urls != (origin,):
                access.mirror(origin, urls)
    return access


def process_variables(condarc: Condarc, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that this process would need others of for rattler to see this environment and configuration.

    None for one that it must not have. Raises EngineError for certificates that do not exist.
    """
    wanted = {name: environ.get(name) for name in _READ_BY_RATTLER} | _network_variables(condarc, environ)
    if _netrc_blocks(environ):
        wanted["NETRC"] = os.devnull
    homes = {environ.get("HOME"), os.environ.get("HOME")} - {None}
    if not any(os.path.exists(os.path.join(str(home), name)) for home in homes for name in _IN_HOME):
        del wanted["HOME"]
    return {name: value for name, value in wanted.items() if value != os.environ.get(name)}


def _netrc_blocks(environ: Mapping[str, str]) -> bool:
    """Whether netrc is a pipe or the like, which rattler would wait for for ever; it counts as none."""
    path = Path(environ.get("NETRC") or os.path.join(environ.get("HOME") or "/", ".netrc"))
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


def make_client(
    access: Access, condarc: Condarc, environ: Mapping[str, str], *, offline: bool, alive: Callable[[], None]
) -> Client:
    """A client for metadata and packages; ``alive`` is called with every request. Raises EngineError."""
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
            raise OfflineError("the network is not to be used")
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
    """A client that takes any certificate. Only rattler's configuration can ask for that, and it knows no headers:
    logins go by a file that only we can read, for as long as it takes to read it.
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
    """Proxies and certificates of the configuration, as the variables that rattler's HTTP client looks at."""
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
                f"the certificates {certificates} do not exist",
                code="setting-invalid",
                hint="Correct ssl_verify in .condarc, or the variable CONDA_SSL_VERIFY or REQUESTS_CA_BUNDLE.",
            )
        variables["SSL_CERT_DIR" if path.is_dir() else "SSL_CERT_FILE"] = certificates
    return variables
