"""How channels with credentials reach an engine: by files that only the user can read, never on a command line.

Anybody on the machine can read a command line (``ps``). conda finds the credentials in ``custom_channels`` of a condarc
of ours, which the variable ``CONDARC`` names (what it named before is taken in), and completes with them the bare URLs
that it gets as options. Its rattler solver forgets them again before it downloads packages, so a ``.netrc`` of ours
has them too (the user's own is taken in). mamba reads channels and specs from an environment file. The files lie in a
directory of their own (0700) beside the log for as long as the engine runs.
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
    """Whether a channel or spec carries credentials."""
    return strip_credentials(text) != text


def literal(request: EngineRequest) -> EngineRequest:
    """The request with everything encoded that conda or mamba would expand: ``$NAME``, ``${NAME}`` and ``%NAME%``.

    conda expands variables in channels, wherever they are named, mamba in those of an environment file. The user's own
    configuration may say ``$TOKEN``; what comes from a script, a lock or a baseline is data, and goes to a host.
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
    """The files for one run of an engine: in a directory beside its log that is made for the first, gone afterwards.

    What a killed run left behind goes too: the name says whose it was.
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
        """Write a file that only its owner can read; there must be none of this name yet. Raises EngineError."""
        try:
            if self._directory is None:
                import tempfile

                self._directory = Path(tempfile.mkdtemp(prefix=f"{_STEM}{os.getpid()}-", dir=self._parent))
            path = self._directory / name
            write_new(path, text.encode(), mode=0o600)
        except OSError as error:
            raise EngineError(
                f"{self._parent} cannot be written to: {error.strerror}", code="cache-not-writable"
            ) from error
        return path


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    import psutil  # takes 10 ms, and there is rarely one to ask of

    return pid.isdecimal() and psutil.pid_exists(int(pid))


def environment_file(files: PrivateFiles, request: EngineRequest) -> Path:
    """An environment.yml (as JSON, which is YAML) with the request's channels and specs, for mamba."""
    document = {
        "channels": list(request.channels),
        "dependencies": list(request.packages),
    }
    return files.write("environment.yml", json.dumps(document, indent=1))


def spec_file(files: PrivateFiles, request: EngineRequest) -> Path:
    """A file of match specs, one a line."""
    return files.write("specs.txt", "".join(f"{spec}\n" for spec in request.packages))


def condarc_file(files: PrivateFiles, channels: Sequence[str], environ: Mapping[str, str]) -> Path:
    """A condarc that knows the credentials of these channels, and all that the file named by ``CONDARC`` says."""
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
            content = None  # conda would say so itself; here it only means that there is nothing to take in
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
    """A ``.netrc`` with the users and passwords of these channels after all that the user's own says.

    None where no channel has any that the format can hold, one for each host. ``others`` are lines and specs with URLs
    that are requested as well: the format knows no ports, so EngineError is raised where a password would be sent to
    another port or scheme of its host.
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
                hint="Use --engine rattler, which keeps them apart, or name the channel without its password.",
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
    """A URL taken apart. Raises EngineError for one that cannot be used."""
    try:
        return split_url(url)
    except ValueError as error:
        raise EngineError(
            f"{redact(url)} cannot be used: {error}", code="channel-unreachable", hint="Write it as https://HOST/PATH."
        ) from None


def _named(channel: str, taken: Mapping[str, str]) -> tuple[str, str]:
    """A channel's URL parted into a name that is not taken yet, as long as can be, and the rest, credentials included.

    conda recognises the channel by both together, wherever the cut is.
    """
    head = re.match(r"[^:/]+://[^/]*(?:/t/[^/]*)?", channel)
    cuts = [match.start() for match in re.finditer("/", channel) if head is not None and match.start() >= head.end()]
    for cut in cuts:
        if cut + 1 < len(channel) and channel[cut + 1 :] not in taken:
            return channel[cut + 1 :], channel[:cut]
    raise EngineError(
        f"conda cannot be given the channel {redact(channel)} without its credentials being seen by others here",
        code="secret-refused",
        hint="Put the credentials into .netrc and name the channel without them, or use another --engine.",
    )


def scrub(prefix: Path, texts: Sequence[str]) -> None:
    """Take credentials out of what the engine wrote into ``conda-meta``, if one of these channels and specs has any."""
    if any(map(has_credentials, texts)):
        clean_records(prefix / "conda-meta")


def clean_records(meta: Path) -> None:
    """Take the credentials out of all URLs in the package records and the history of a ``conda-meta``."""
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
        except (OSError, ValueError):  # not readable, or no record
            continue
        if new != old:
            write_below(meta, path.name, new.encode())
