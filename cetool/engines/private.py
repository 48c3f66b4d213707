"""Pass channels with credentials to an engine in files that only the user can read, never on a command line.

Every user of the machine can read command lines (``ps``). For conda, a temporary condarc named by the variable
``CONDARC`` has the credentials in ``custom_channels`` (and the content of the previous file); conda adds them to the
URLs without credentials that it gets as options. Since conda's rattler solver loses them before it downloads packages,
a temporary ``.netrc`` has them too (and the content of the user's). mamba reads channels and specs from an environment
file. The files exist in their own directory (0700) next to the log for as long as the engine runs.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cetool.base.below import read_below, write_below
from cetool.base.errors import EngineError
from cetool.base.files import write_new
from cetool.base.limits import SETTINGS, check_yaml, parse_json, read_text
from cetool.base.text import pattern
from cetool.base.urls import Url, cleaned, redact, split_url, strip_credentials
from cetool.declare.environment import Exact, Solve
from cetool.engines.protocol import EngineRequest

_STEM = "engine-input-"
#: The URLs in a channel, a match spec or a line of an explicit spec; a host may be an IPv6 address in brackets.
_URLS = pattern(r"(?<=://)(?:[^\s\"'\[\]/]*\[[0-9A-Fa-f:.]*\])?[^\s\"'\[\]]*")
_LONE_PERCENT = pattern(r"%(?![0-9A-Fa-f]{2})")


def has_credentials(text: str) -> bool:
    """Return whether a channel or match spec contains credentials."""
    return strip_credentials(text) != text


def literal(request: EngineRequest) -> EngineRequest:
    """Return the request with ``$NAME``, ``${NAME}`` and ``%NAME%`` encoded, which conda or mamba would expand.

    conda expands variables in all channels, mamba in those of an environment file. The user's configuration may contain
    ``$TOKEN``, but a channel from a script, lock or baseline is data: the value would be sent to its host.
    """
    asked = Solve(tuple(map(_literal, request.packages)), request.spec.pypi)
    exact = tuple(package._replace(url=_literal(package.url)) for package in request.exact)
    channels, what = tuple(map(_literal, request.channels)), Exact(exact, asked=asked) if exact else asked
    return request._replace(spec=request.spec._replace(channels=channels, what=what))


def _literal(text: str) -> str:
    if "://" not in text:
        return text
    return _URLS.sub(lambda url: _LONE_PERCENT.sub("%25", url[0].replace("$", "%24")), text)


class PrivateFiles:
    """The private files for one run of an engine, in a directory next to its log.

    The directory is created with the first file and removed at the end. Directories of killed processes, recognized by
    the process ID in their names, are removed too.
    """

    def __init__(self, request: EngineRequest) -> None:
        self._parent = request.log.parent
        self._directory: Path | None = None

    def __enter__(self) -> PrivateFiles:
        with suppress(OSError):
            for name in os.listdir(self._parent):
                if name.startswith(_STEM) and not _is_alive(name.removeprefix(_STEM).partition("-")[0]):
                    _remove(self._parent / name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            _remove(self._directory)

    def write(self, name: str, text: str) -> Path:
        """Write a new file that only its owner can read. Raises EngineError."""
        try:
            if self._directory is None:
                import tempfile

                self._directory = Path(tempfile.mkdtemp(prefix=f"{_STEM}{os.getpid()}-", dir=self._parent))
            path = self._directory / name
            write_new(path, text.encode(), mode=0o600)
        except OSError as error:
            raise EngineError(f"cannot write to {self._parent}: {error.strerror}", code="cache-not-writable") from error
        return path


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    import psutil  # takes 10 ms, and is rarely needed

    return pid.isdecimal() and psutil.pid_exists(int(pid))


def environment_file(files: PrivateFiles, request: EngineRequest) -> Path:
    """Write an environment.yml (as JSON, which is YAML) with the request's channels and match specs, for mamba."""
    document = {
        "channels": list(request.channels),
        "dependencies": list(request.packages),
    }
    return files.write("environment.yml", json.dumps(document, indent=1))


def spec_file(files: PrivateFiles, request: EngineRequest) -> Path:
    """Write a file of match specs, one per line."""
    return files.write("specs.txt", "".join(f"{spec}\n" for spec in request.packages))


def condarc_file(files: PrivateFiles, channels: Sequence[str], environ: Mapping[str, str]) -> Path:
    """Write a condarc with the credentials of these channels and the content of the file named by ``CONDARC``."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="rt")
    content: object = None
    if environ.get("CONDARC"):
        try:
            text = read_text(environ["CONDARC"], SETTINGS)
            check_yaml(text)
            content = yaml.load(text)
        except (OSError, ValueError, RecursionError, YAMLError):
            content = None  # conda would report it; here it only means that there is nothing to copy
    settings = content if isinstance(content, dict) else {}
    custom = settings.get("custom_channels")
    settings["custom_channels"] = custom = custom if isinstance(custom, dict) else {}
    for channel in filter(has_credentials, channels):
        name, location = _named(channel, custom)
        custom[name] = location
    written = io.StringIO()
    yaml.dump(settings, written)
    return files.write("condarc.yml", written.getvalue())


def netrc_file(
    files: PrivateFiles, channels: Sequence[str], environ: Mapping[str, str], others: Sequence[str] = ()
) -> Path | None:
    """Write a ``.netrc`` with the content of the user's, then the users and passwords of these channels.

    Returns None if no channel has credentials that the format can contain, one pair for each host. ``others`` are other
    URLs, explicit lines and specs that will be requested: since the format has no ports, EngineError is raised if a
    password would be sent to another port or scheme of its host.
    """
    logins: dict[str, set[tuple[str, str]]] = {}
    origins: dict[str, set[tuple[str, str, int | None]]] = {}
    for text in (*channels, *others):
        for url in map(parts_of, re.findall(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'\]]+", text)):
            origins.setdefault(url.host, set()).add(url.origin)
            user, password = (each.decode("utf-8", "replace") for each in url.login or (b"", b""))
            if user and not re.search(r"[\s\"'\\#]", user + password):
                logins.setdefault(url.host, set()).add((user, password))
    for host in logins:
        if len(origins[host]) > 1:
            raise EngineError(
                f"conda would send the password for {host} to each of "
                + ", ".join(sorted(f"{scheme}://{host}:{port}" for scheme, _, port in origins[host])),
                code="secret-refused",
                hint="Use --engine rattler, which distinguishes them, or give the channel without its password.",
            )
    entries = [
        f"machine {host} login {user} password {password}\n"
        for host, pairs in logins.items()
        if len(pairs) == 1
        for user, password in pairs
    ]
    if not entries:
        return None
    home = environ.get("HOME", "")
    own = environ.get("NETRC") or next((str(p) for n in (".netrc", "_netrc") if (p := Path(home, n)).is_file()), None)
    try:
        text = read_text(own, SETTINGS) if own else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    return files.write("netrc", text.rstrip("\n") + "\n" + "".join(entries))


def parts_of(url: str) -> Url:
    """Split a URL. Raises EngineError if it is malformed."""
    try:
        return split_url(url)
    except ValueError as error:
        raise EngineError(
            f"invalid URL '{redact(url)}': {error}", code="channel-unreachable", hint="Write it as https://HOST/PATH."
        ) from None


def _named(channel: str, taken: Mapping[str, str]) -> tuple[str, str]:
    """Split a channel's URL into an unused name, as long as possible, and the rest with the credentials.

    conda recognizes the channel by the combination of both, wherever it is split.
    """
    head = re.match(r"[^:/]+://[^/]*(?:/t/[^/]*)?", channel)
    cuts = [match.start() for match in re.finditer("/", channel) if head is not None and match.start() >= head.end()]
    for cut in cuts:
        if cut + 1 < len(channel) and channel[cut + 1 :] not in taken:
            return channel[cut + 1 :], channel[:cut]
    raise EngineError(
        f"cannot pass the channel {redact(channel)} to conda without revealing its credentials to other users",
        code="secret-refused",
        hint="Put the credentials into ~/.netrc and give the channel without them, or use another --engine.",
    )


def scrub(prefix: Path, texts: Sequence[str]) -> None:
    """Remove credentials from the engine's files in ``conda-meta``, if one of these channels and specs has any."""
    if any(map(has_credentials, texts)):
        clean_records(prefix / "conda-meta")


def clean_records(meta: Path) -> None:
    """Remove credentials from all URLs in the package records and the history of a ``conda-meta``."""
    for path in (*meta.glob("*.json"), meta / "history"):
        try:
            old = read_below(meta, path.name).decode()
            new = old
            if path.suffix == ".json":
                record = parse_json(old)
                if (clean := cleaned(record)) != record:
                    new = json.dumps(clean, indent=2)
            else:
                new = strip_credentials(old)
        except (OSError, ValueError):  # not readable, or not a record
            continue
        if new != old:
            write_below(meta, path.name, new.encode())
