"""The first lines of a build's log: the request, the user, and how it is built."""

from __future__ import annotations

from collections.abc import Iterator

from cetool import __version__
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.server.config import ServerConfig
from cetool.server.data.leases import Claim

#: The most names in one line.
_MOST = 40


def summary_of(claim: Claim, config: ServerConfig, sandbox: str | None) -> str:
    """Return the lines; ``sandbox`` is why link scripts are not confined, None if they are."""
    place = "no environment" if claim.name is None else f"{claim.namespace}/{claim.name}"
    if claim.attempt > 1:
        return f"Attempt {claim.attempt}"
    lines = [f"Build {claim.build_id} of {place}, requested by {claim.by} ({claim.origin})"]
    for each in claim.platforms:
        spec = EnvironmentSpec.from_dict(dict(each.spec or {}))
        lines += [f"{each.platform}: {line}" for line in _described(spec)]
    if config.sandbox == "off":
        confined = "not confined (sandbox is off)"
    else:
        confined = "without network and privileges" if sandbox is None else f"not confined: {sandbox}"
    lines += [f"Engine: rattler (embedded), cetool {__version__}", f"Link scripts run {confined}"]
    return "\n".join(lines)


def _described(spec: EnvironmentSpec) -> Iterator[str]:
    if isinstance(spec.what, Exact):
        yield f"{len(spec.what.conda)} conda and {len(spec.what.pypi)} PyPI packages of a lock"
    else:
        yield f"packages {_listed(spec.packages)}"
        if spec.pypi:
            yield f"PyPI packages {_listed(spec.pypi)}"
        yield f"channels {_listed(spec.channels)}"
    if spec.virtual_packages:
        yield f"virtual packages {_listed(tuple(f'{name}={version}' for name, version in spec.virtual_packages))}"
    if spec.exclude_newer:
        yield f"published before {spec.exclude_newer}"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST]) or "none"
    return shown + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
