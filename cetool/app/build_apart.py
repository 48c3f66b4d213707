"""What confined parts of a server's build see: link scripts, and builds of PyPI packages, are other people's code."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cetool
from cetool.app.world import World
from cetool.base.codec import decode, encode
from cetool.base.confining import Walls, confine, die_with_parent
from cetool.base.errors import CetoolError, EngineError
from cetool.engines.protocol import Progress
from cetool.engines.pypi.driver import find_uv
from cetool.engines.pypi.lock import PypiSolver
from cetool.lock.model import PlatformLock

#: The variables that others' code gets; all others may contain secrets of the server.
_PUBLIC = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM")
#: Those that programs with access to the network need, and files that they read.
_NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS"),
    *("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_BUILD"),
)
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl")
#: Places with files and sockets of users and services, some of which a server that runs as root could read.
_PRIVATE = (
    *("/home", "/root", "/tmp", "/run", "/srv", "/mnt", "/media", "/boot", "/var/tmp", "/var/lib", "/var/log"),
    *("/var/spool", "/var/backups", "/var/cache", "/var/mail", "/etc/shadow", "/etc/shadow-", "/etc/gshadow"),
    *("/etc/gshadow-", "/etc/ssl/private", "/etc/ssh", "/etc/sudoers", "/etc/sudoers.d"),
)
#: What the data directory shows: environments and what is needed to create one.
_SHOWN = frozenset(("envs", "pkgs", "locks", "trash", "scratch"))


def uv_cache(data: Path) -> Path:
    """Return uv's cache in a data directory."""
    return data / "pkgs" / "uv"


def public_environ(environ: Mapping[str, str], scratch: Path, *, network: bool) -> dict[str, str]:
    """Return the variables for others' code, with a scratch directory as home."""
    names = (*_PUBLIC, *(_NETWORK if network else ()))
    kept = {name: environ[name] for name in names if name in environ}
    return {**kept, **dict.fromkeys(("HOME", "TMPDIR"), str(scratch))}


def walls_around(world: World, cache: Path, *, network: bool) -> Walls:
    """Return the walls around others' code; ``cache`` is the embedded engine's directory."""
    root = world.paths.root
    secret = [path for path in root.iterdir() if path.name not in _SHOWN]
    files = list(map(Path, _NETWORK_FILES)) if network else []
    if uv := find_uv(world.environ):
        files.append(uv)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        files += [Path(world.environ[name])] if network and name in world.environ else []
    return Walls(
        # one mount for both if possible: files are not linked from one mount to another, but copied
        writable=_real(root) if cache.is_relative_to(root) else _real(root, cache),
        hidden=(*_real(*_places_of_users(world.environ)), *_real(*secret)),
        kept=_real(*_own_files(), *files),
        network=network,
    )


def _places_of_users(environ: Mapping[str, str]) -> list[Path]:
    """Return directories with files and sockets of users and services."""
    named = [environ.get("HOME"), os.path.expanduser("~")]
    homes = [Path(home) for home in named if home and len(Path(home).parts) > 1]
    return [*homes, *map(Path, _PRIVATE)]


def _own_files() -> list[Path]:
    """Return the files of this Python and of cetool."""
    packages = [entry for entry in sys.path if entry and os.path.isdir(entry)]
    return [*map(Path, (sys.prefix, sys.base_prefix, *cetool.__path__, *packages))]


def _real(*paths: Path) -> tuple[Path, ...]:
    """Return the existing paths without symbolic links, each once."""
    found = dict.fromkeys(Path(os.path.realpath(path)) for path in paths)
    return tuple(path for path in found if path.exists() and len(path.parts) > 1)


# --- resolving PyPI packages ------------------------------------------------------------------------------------------


def resolver_apart(world: World, scratch: Path) -> Callable[[PypiSolver, Progress], PlatformLock]:
    """Return a function that resolves PyPI packages in a confined process, with the network and without secrets.

    To know what a source distribution requires, its build has to run.
    """

    def resolve(solver: PypiSolver, progress: Progress) -> PlatformLock:
        environ = public_environ(world.environ, scratch, network=True)
        environ |= {"UV_CACHE_DIR": str(uv_cache(world.paths.root))}
        uv_cache(world.paths.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        alone = replace(solver, request=solver.request._replace(environ=environ))
        walls = walls_around(world, world.packages, network=True)
        told = _apart(walls, lambda: _resolved(alone, progress))
        if "locked" in told:
            return decode(PlatformLock, told["locked"])
        message, code, hint, details = (told[key] for key in ("message", "code", "hint", "details"))
        raise EngineError(message, code=code, hint=hint, details=tuple(details))

    return resolve


def _resolved(solver: PypiSolver, progress: Progress) -> dict[str, Any]:
    try:
        return {"locked": encode(solver.solve(progress))}
    except CetoolError as error:
        details = list(error.details)
        return {"message": error.message, "code": error.code, "hint": error.hint, "details": details}


def _apart(walls: Walls, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a function returns in a confined process. Raises EngineError if that crashes."""
    reading, writing = os.pipe()
    above = os.getpid()
    pid = os.fork()
    if pid == 0:
        _work_apart(walls, work, writing, above)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise EngineError(f"resolving PyPI packages crashed ({how})", code="build-crashed")
    return dict(json.loads(data))


def _work_apart(walls: Walls, work: Callable[[], dict[str, Any]], pipe: int, above: int) -> NoReturn:
    status = 1
    try:
        die_with_parent(above)
        confine(walls)
        with os.fdopen(pipe, "wb") as file:
            file.write(json.dumps(work()).encode())
        status = 0
    finally:
        os._exit(status)
