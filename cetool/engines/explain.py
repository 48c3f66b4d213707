"""Turn the output of a program, and how it ended, into one clear error.

:data:`_RULES` has patterns for the output of conda and micromamba (as text, or in their JSON) and the errors that they
mean; the first match is used. Advice of these programs that would make things worse (clearing all caches) or is not
applicable (their issue trackers) is removed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cetool.base.errors import EngineError
from cetool.base.limits import parse_json
from cetool.base.urls import redact
from cetool.engines.conflicts import conflict_error
from cetool.engines.errors import (
    channel_error,
    channel_of,
    damaged_error,
    not_found_error,
    package_download_error,
    space_error,
)
from cetool.engines.linked import refused_packages
from cetool.engines.protocol import EngineRequest
from cetool.engines.subprocesses import Ended
from cetool.packages.cache import DamagedPackages

# conda: a list below one of these sentences
_LISTED = re.compile(
    r"(?:not available from current channels:|PackagesNotFoundError:[^\n]*|ResolvePackageNotFound:)\s*\n"
    r"(?P<list>(?:\s+- [^\n]*\n?)+)"
)
# micromamba: the top of its tree
_TOP = re.compile(r"^\s*[├└]─ (?P<spec>\S.*?) does not exist \(perhaps a typo", re.MULTILINE)
# conda's rattler solver and py-rattler: a root without candidates
_ROOT = re.compile(
    r"(?:because of: |^[├└]─ )(?P<spec>\S[^\n]*?), for which no candidates were found|"
    r"No candidates were found for (?P<other>[^\n]+?)\.?$",
    re.MULTILINE,
)


def missing_packages(words: str, packages: Sequence[str]) -> list[str]:
    """Return the match specs for which the engine found no package, in the form of the request if possible."""
    specs: list[str] = []
    for match in _LISTED.finditer(words):
        specs += [line.strip()[2:] for line in match["list"].splitlines() if line.strip().startswith("- ")]
    specs += [match["spec"] for match in _TOP.finditer(words)]
    specs += [match["spec"] or match["other"] for match in _ROOT.finditer(words)]
    return list(dict.fromkeys(_as_asked(spec, packages) for spec in specs if spec.strip()))


def _as_asked(spec: str, packages: Sequence[str]) -> str:
    name = _name(spec)
    same = [package for package in packages if _name(package) == name]
    return same[0] if len(same) == 1 else spec.replace(" =* *", "").strip()


def _name(spec: str) -> str:
    match = re.match(r"(?:[^\s\[]*::)?([A-Za-z0-9_.-]+)", spec.strip())
    return match[1].lower() if match else spec.strip().lower()


_ADVICE = re.compile(
    r"clean -a|clean --all|issue tracker|/issues|run into this error|see this message repeatedly|report the error|"
    r"report an issue|conda config --show|As of conda 4|conda index|navigate to|anaconda\.org$|search bar|"
    r"looking for|Retrying|intermittent|notifying the maintainer|--no-plugins|CONDA_NO_PLUGINS|prepared the above"
)
_FATAL = re.compile(r"^(?:critical libmamba|error    libmamba|error libmamba)\s+", re.MULTILINE)


@dataclass(frozen=True)
class _Case:
    """Everything that a rule may look at."""

    engine: str
    ended: Ended
    request: EngineRequest
    #: The whole output, with the messages of JSON documents.
    words: str

    @property
    def log(self) -> str:
        return str(self.request.log)

    @property
    def channels(self) -> str:
        return ", ".join(map(redact, self.request.channels))

    def error(self, message: str, code: str | None, hint: str) -> EngineError:
        return EngineError(message, code=code, hint=hint, log=self.log)


def explain(ended: Ended, *, engine: str, request: EngineRequest, finding: EngineError | None = None) -> EngineError:
    """Return the error for a run that failed, or that reported success despite the problem ``finding``."""
    case = _Case(engine, ended, request, _words(ended))
    for patterns, told in _RULES:
        found = next(filter(None, (re.search(pattern, case.words) for pattern in patterns)), None)
        error = told(case, found) if found is not None else None
        if error is not None:
            return error
    if ended.signum is not None:  # last: conda may print why it failed and then crash when it exits
        return _killed(case, ended.signum)
    if "Traceback (most recent call last)" in case.words or '"traceback"' in ended.stdout:
        return _crashed(case)
    if finding is not None:
        return finding.but(message=f"{engine} reported success, but {finding.message}", log=case.log)
    return _last_words(case)


def _words(ended: Ended) -> str:
    """Return standard error, then standard output, or the messages in it if it is a JSON document."""
    try:
        document = parse_json(ended.stdout)
    except ValueError:
        return f"{ended.stderr}\n{ended.stdout}"
    return "\n".join((ended.stderr, *_messages(document)))


def _messages(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        return
    for error in document.get("errors") or [document]:
        if isinstance(error, dict):
            name, text = error.get("exception_name"), error.get("error") or error.get("message")
            if isinstance(text, str):
                yield text if not name or text.startswith(str(name)) else f"{name}: {text}"
    for problem in document.get("solver_problems") or []:
        yield f"critical libmamba {problem}"


# --- output of programs, and its meaning ------------------------------------------------------------------------------


def _http(case: _Case, match: re.Match[str]) -> EngineError:
    """Return the error for a URL that failed: the package list of a channel, or a package."""
    found = match.groupdict()
    url = redact(str(found.get("url") or ", ".join(case.request.channels))).strip()
    status = int(found.get("status") or 0)
    network = (reason for pattern, reason in _NETWORK if re.search(pattern, case.words))
    reason = next(network, "") or str(found.get("reason") or "").strip()
    if re.search(r"\.(?:conda|tar\.bz2)$", url):
        return package_download_error(url, status, reason, case.log)
    return channel_error(url, status, reason, case.log, offline=case.request.offline)


def _offline(case: _Case, _: re.Match[str]) -> EngineError | None:
    """Return the error for a channel whose package list is not in conda's cache, and must not be fetched."""
    if not case.request.offline:
        return None
    return channel_error(case.channels, 0, "the network must not be used with --offline", case.log, offline=True)


def _half_unpacked(case: _Case, _: re.Match[str]) -> EngineError | None:
    """Return the error for incomplete packages in conda's cache that could not be removed."""
    directories = refused_packages(case.words)
    return DamagedPackages(directories, log=case.log) if directories else None


def _unsolved(case: _Case, _: re.Match[str]) -> EngineError | None:
    request = case.request
    missing = missing_packages(case.words, request.packages)
    if missing:
        return not_found_error(missing, request.channels, case.log, offline=request.offline)
    return conflict_error(case.words, request.packages, request.channels, case.log)


def _spec(case: _Case, match: re.Match[str]) -> EngineError:
    why = match["why"].rsplit("': ", 1)[-1].strip().rstrip('".')
    return case.error(
        f"{case.engine} rejects the match spec {match['spec']!r}: {why}",
        "match-spec-invalid",
        f"The requested match specs are {', '.join(map(redact, case.request.packages))}.",
    )


def _not_writable(case: _Case, match: re.Match[str]) -> EngineError:
    place = re.search(r"['\"](/[^'\"]+)['\"]", case.words[match.start() : match.start() + 400])
    where = place[1] if place else "its package cache or the environment's directory"
    return case.error(
        f"{case.engine} cannot write to {where}",
        "cache-not-writable",
        "Make it writable, or set another package cache (pkgs_dirs in .condarc).",
    )


def _command_line(case: _Case, match: re.Match[str]) -> EngineError:
    return case.error(
        f"{case.engine} does not support {redact(match[1])}: it is too old, or another program of the same name",
        "engine-too-old",
        f"Update {case.engine}, or choose another engine with --engine; `cetool info` lists them.",
    )


_NETWORK = (
    (r"Connection refused|Couldn't connect|Failed to connect", "the connection was refused"),
    (r"Name or service not known|NameResolutionError|Could not resolve|resolve host", "its name cannot be resolved"),
    (r"[Tt]imed out|Timeout", "it did not answer in time"),
    (r"CERTIFICATE_VERIFY_FAILED|SSL certificate problem|SSLError", "its certificate is not trusted"),
    (r"ProxyError|Proxy CONNECT aborted", "the proxy refused the connection"),
    (r"CONNECTION FAILED", "the connection failed or timed out"),
)
_RULES: tuple[tuple[tuple[str, ...], Callable[[_Case, re.Match[str]], EngineError | None]], ...] = (
    (
        (r"No space left on device|ENOSPC|NoSpaceLeftError|Disk quota exceeded|not enough (?:disk )?space",),
        lambda case, _: space_error(case.engine, case.log),
    ),
    ((r"FileNotFoundError.*cache|OfflineError|offline mode",), _offline),
    (
        (
            r"HTTP (?P<status>\d{3}) .*?for (?:url|channel \S+) <(?P<url>[^>]+)>",
            r"Failed to download package from (?P<url>\S+) \(status (?P<status>\d+)\)",
            r"status: (?P<status>\d+) \[(?P<url>[^\]]+)\]",
            r"Download error \((?P<curl>\d+)\) (?P<reason>[^\[\n]*)\[(?P<url>[^\]]+)\]",
            r"(?s)ChannelNotAllowed|UnavailableInvalidChannel:.*?<(?P<url>[^>\s]+)>",
        ),
        _http,
    ),
    ((r"appears to be corrupted",), _half_unpacked),
    (
        (
            r"(?s)ChecksumMismatchError:.*?for url '(?P<package>[^']+)'",
            r"File not valid: \S+ doesn't match expectation \"(?P<package>[^\"]+)\"",
            r"(?s)InvalidArchiveError[:(].*?(?P<package>[^\s'\"/\\]+\.(?:conda|tar\.bz2))",
            r"(?P<package>\S+) tarball has incorrect",
        ),
        lambda case, found: damaged_error(redact(found["package"]), case.request.channels, case.log),
    ),
    (("",), _unsolved),
    (
        (
            r"InvalidMatchSpec: Invalid spec '(?P<spec>[^']*)': (?P<why>.*)",
            r"(?m)Error parsing (?:MatchSpec|version) \"(?P<spec>[^\"]*)\"[:.]\s*(?P<why>.*?)\"?\.?$",
        ),
        _spec,
    ),
    (
        (
            r"Read-only file system|EnvironmentNotWritableError|NotWritableError|NoWritablePkgsDirError|"
            r"No writeable pkgs directories|Permission denied.*|\[Errno (?:13|30)\].*",
        ),
        _not_writable,
    ),
    ((r"(?:unrecognized arguments|argument was not expected|arguments were not expected): (.*)",), _command_line),
)


# --- output that matches no rule --------------------------------------------------------------------------------------


def _killed(case: _Case, signum: int) -> EngineError:
    names = {int(known): known.name for known in signal.Signals}
    message = f"{case.engine} was killed by {names.get(signum, f'signal {signum}')}"
    if channel := _being_read(case):
        message += f" while it read the package list of {channel}"
    hint = "Run the command again."
    if signum == getattr(signal, "SIGKILL", 9):
        hint = "The system may have run out of memory. Run the command again."
    elif signum in (4, 6, 7, 8, 11):
        hint = (
            f"{case.engine} crashed, perhaps because of a damaged package list. Try again later, or another --engine."
        )
    return case.error(message, None, hint)


def _being_read(case: _Case) -> str | None:
    """Return the channel whose package list was being read, None if there is none."""
    begun = re.findall(r"^Using Flat Repodata for (\S+)\s.*(Starting|Done)", case.words, re.MULTILINE)
    if begun and begun[-1][1] == "Starting":
        return channel_of(begun[-1][0])
    failed = re.search(r"Collecting package metadata.*failed", case.words)
    return case.channels if failed else None


def _crashed(case: _Case) -> EngineError:
    """Return the error for a traceback of conda."""
    lines = re.findall(
        r"^\s*((?:[A-Za-z_]+\.)*[A-Z]\w*(?:Error|Exception|Spec|Warning|Exit)\b(?::| ?\().*)$", case.words, re.MULTILINE
    )
    message = f"{case.engine} crashed"
    if channel := _being_read(case):
        message += f" while it read the package lists of {channel}"
    if lines:
        message += f": {_short(lines[-1].strip())}"
    return case.error(message, None, "A package list or package may be damaged. Try another --engine.")


def _last_words(case: _Case) -> EngineError:
    """Return the error for unrecognized output: the engine's message without its advice."""
    fatal = _FATAL.search(case.words)
    text = case.words[fatal.end() :] if fatal else case.ended.stderr or case.words
    lines = [_FATAL.sub("", line).strip() for line in text.splitlines() if line.strip() and not _ADVICE.search(line)]
    lines = list(dict.fromkeys(lines))  # mamba prints a message as an error, and again as critical
    said = _short(" ".join(lines[:4] if fatal else lines[-4:]))
    status = f"exit status {case.ended.status}"
    message = f"{case.engine} failed ({status}): {said}" if said else f"{case.engine} failed without output ({status})"
    return case.error(message, None, f"See the log for the complete output of {case.engine}.")


def _short(text: str, limit: int = 600) -> str:
    text = " ".join(redact(text).split())
    return text if len(text) <= limit else text[: limit - 2].rsplit(" ", 1)[0] + " …"
