"""Check what a server answers against this machine and against channels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

from cetool.base.errors import EngineError
from cetool.base.urls import strip_credentials
from cetool.declare.channels import resolve_channel
from cetool.declare.match_specs import spec_name
from cetool.declare.package import Package
from cetool.engines.protocol import EngineRequest
from cetool.engines.rattler.client import process_variables
from cetool.engines.rattler.lookup import digests_in_channels
from cetool.engines.rattler.request import virtual_packages
from cetool.lock.records import fits
from cetool.remote.records import BuildRecord
from cetool.settings.condarc import load_condarc

_MOST_NAMES = 5


def lacking(record: BuildRecord, overrides: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> str | None:
    """Return the first virtual package that the record's packages need and this machine lacks."""
    from rattler import MatchSpec

    needed = {text for text in record.requires if text.startswith("__")}
    needed |= {text for package in record.conda for text in package.depends if text.startswith("__")}
    limits = {text for package in record.conda for text in package.constrains if text.startswith("__")}
    here = {
        each.name.normalized: Package(each.name.normalized, str(each.version), str(each.build_string), "noarch", "")
        for each in virtual_packages(overrides, environ)
    }
    for text in sorted(needed | limits):
        package = here.get(spec_name(text))
        if package is None and text in needed:
            return text
        if package is not None and not fits(MatchSpec(text), text, package):
            return text
    return None


def require_in_channels(request: EngineRequest, record: BuildRecord, own_process: bool) -> None:
    """Raise EngineError unless each package is in one of the request's channels, with the same digest.

    Packages from PyPI cannot be looked up.
    """
    if record.pypi:
        raise _unverified(f"verify-channels cannot check packages from PyPI, such as {record.pypi[0].name}")
    condarc = load_condarc(request.environ, mamba=True)
    urls = [url for each in request.channels for url in resolve_channel(each, condarc)]
    channels = [strip_credentials(url).rstrip("/") for url in urls]
    alien = [package for package in record.conda if package.channel.rstrip("/") not in channels]
    if alien:
        raise _unverified(f"{alien[0].name} is from {alien[0].channel}, which is not one of the channels")
    with _variables(process_variables(condarc, request.environ) if own_process else {}):
        known = digests_in_channels(request, record.conda, condarc)
    odd = [each.file_name for each in record.conda if (each.file_name, each.sha256) not in known]
    if odd:
        raise _unverified(f"the channels do not have {', '.join(odd[:_MOST_NAMES])} with the same SHA-256")


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str | None]) -> Iterator[None]:
    """Change the process's own variables for as long as the context lasts: rattler reads proxies from there."""
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _unverified(problem: str) -> EngineError:
    return EngineError(problem, code="server-untrusted")
