"""The world of a use case: variables, settings with their origins, paths, conda's configuration, engines."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, final

from cetool.base.ownership import ensure_private_dir, trusting
from cetool.base.values import Value
from cetool.declare.channels import canonical_channel
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.platforms import current_platform
from cetool.declare.requirements import DEFAULT_CHANNEL
from cetool.engines.protocol import Engine, EngineRequest, Found, root_of
from cetool.launch.records import states
from cetool.settings.condarc import Condarc, load_condarc, search_path
from cetool.settings.paths import Paths, conda_root, config_file_path, resolve_paths
from cetool.settings.settings import LoadedSettings, Settings, load_settings
from cetool.store.store import Store
from cetool.warm import file_state
from cetool.warm.environ import caller_environ

_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})
#: The state of a missing file.
ABSENT = b"-"


class Evidence(Value):
    """What a decision depends on: if all of it is unchanged, the next run decides the same."""

    #: The states of configuration files before they were read (:func:`cetool.launch.records.states`).
    configuration: Mapping[bytes, bytes] = _NOTHING
    #: The states of other files that decide, existing or not: locks, requirements files, baselines, news.
    files: Mapping[bytes, bytes] = _NOTHING
    #: Whether it depends on the engine that is found, and so on PATH.
    by_path: bool = False
    #: Whether the next run, in any directory, decides the same and need not report the same again.
    lasts: bool = True
    #: The file whose age decides when a cold run is due.
    stamp: bytes = b""

    def plus(self, *others: Evidence) -> Evidence:
        """Return this and the others; for a file with several states, the one that was seen first."""
        found = self
        for other in others:
            found = Evidence(
                {**other.configuration, **found.configuration},
                {**other.files, **found.files},
                found.by_path or other.by_path,
                found.lasts and other.lasts,
                found.stamp or other.stamp,
            )
        return found


NOTHING = Evidence()
#: The next run has to report the same again.
PASSING = Evidence(lasts=False)


def seen_configuration(paths: Sequence[str], *, moves: bool = False) -> Evidence:
    """Return the states of configuration files to be read; ``moves``: which files depends on the directory."""
    return Evidence(states(paths), lasts=not moves and all(map(os.path.isabs, paths)))


def seen_files(paths: Sequence[str]) -> Evidence:
    """Return the states of other files to be read."""
    return Evidence(files={os.fsencode(path): file_state(os.fsencode(path)) for path in paths})


@final
class World:
    """What does not change while cetool works. Values are looked up when first needed, and kept."""

    #: The caller's variables.
    environ: Mapping[str, str]
    #: The effective settings, each with its origin.
    loaded: LoadedSettings
    paths: Paths
    store: Store
    #: Seconds since 1970, before anything was read.
    since: float
    #: What the settings and the channels depend on.
    evidence: Evidence
    #: The settings from the command line, or from the program that uses the library.
    options: Mapping[str, object]
    #: Whether the process is cetool's own, rather than a program that uses the library.
    own_process: bool

    def __init__(self, **values: Any) -> None:
        """Use :func:`load_world`."""
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a world is frozen: {name}")

    def without(self, variable: str) -> World:
        """Return the world without a variable, which nothing executed from now on receives."""
        environ = {name: value for name, value in self.environ.items() if name != variable}
        kept = ("loaded", "paths", "store", "since", "evidence", "options", "own_process")
        return World(environ=environ, **{name: getattr(self, name) for name in kept})

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return self.loaded.settings

    @property
    def platform(self) -> str:
        """The subdir of new environments: this machine's, unless ``CONDA_SUBDIR`` names another."""
        return self.environ.get("CONDA_SUBDIR") or current_platform()

    @property
    def packages(self) -> Path:
        """The embedded engine's package cache."""
        return self.settings.pkg_dir or self.paths.packages

    @property
    def offline(self) -> bool:
        """Whether downloads are forbidden."""
        return self.settings.offline or self.loaded.condarc.offline

    @property
    def channels_given(self) -> bool:
        """Whether the command line names channels, which replace the declared ones."""
        return "channels" in self.options

    def is_plain(self, *repeated: str) -> bool:
        """Return whether another call, with only these options repeated, decides and reports the same."""
        if self.options.keys() - {"verbosity", "offline", *repeated}:
            return False
        loaded = load_settings(self.environ) if self.options else self.loaded
        return loaded.settings.verbosity != "verbose"

    def request(self, spec: EnvironmentSpec, prefix: Path = Path(), log: Path = Path()) -> EngineRequest:
        """Return the request to make, or solve, the environment of a specification with the effective settings."""
        settings = self.settings
        return EngineRequest(
            spec,
            prefix,
            log,
            environ=self.engine_environ,
            cache=self.packages,
            offline=self.offline,
            stall_timeout=settings.stall_timeout,
            installer=settings.pip_installer,
        )

    # --- engines ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def engine_environ(self) -> dict[str, str]:
        """The variables for engines: the caller's, and settings for package caches."""
        environ = trusting(self.environ) if self.settings.trust_cache_dir else dict(self.environ)
        return {**environ, "CONDA_PKGS_DIRS": str(self.settings.pkg_dir)} if self.settings.pkg_dir else environ

    @functools.cached_property
    def engine(self) -> tuple[Engine, str]:
        """The engine that makes environments, and why it was chosen."""
        from cetool.engines.choice import choose_engine  # engines: only to make environments

        return choose_engine(
            self.settings.engine, self.engine_environ, lock_dir=self.paths.locks, cache_dir=self.packages
        )

    @functools.cached_property
    def _likely_engine(self) -> Found:
        """The engine that would be chosen, as far as known without starting a program."""
        from cetool.engines.discovery import find_engines  # only for scripts without channels of their own

        found = find_engines(self.environ)
        wanted = self.settings.engine
        return next((item for item in found if (item.name == wanted if wanted else item.problem is None)), found[-1])

    @functools.cached_property
    def root_prefix(self) -> str | None:
        """The installation of the engine that would be chosen; None if it has none."""
        engine, environ = self._likely_engine, self.environ
        of_conda = engine.name in ("conda", "rattler")
        named = conda_root(environ) if of_conda else environ.get("MAMBA_ROOT_PREFIX")
        if named or engine.name == "rattler" or engine.path is None:
            return named or None
        return str(root_of(engine.path))

    @functools.cached_property
    def _engine_condarc(self) -> tuple[Condarc, Evidence]:
        engine, root = self._likely_engine, self.root_prefix
        mamba = engine.name != "conda"
        read = search_path(self.environ, root_prefix=root, mamba=mamba)
        seen = seen_configuration(read).plus(seen_configuration([engine.path] if engine.path else []))
        return load_condarc(self.environ, root_prefix=root, mamba=mamba), seen._replace(by_path=True)

    @property
    def condarc(self) -> Condarc:
        """conda's configuration as read by the engine that would be chosen."""
        return self._engine_condarc[0]

    @property
    def on_condarc(self) -> Evidence:
        """The evidence for a decision that depends on :attr:`condarc`."""
        return self._engine_condarc[1]

    @functools.cached_property
    def _channels(self) -> tuple[str, ...]:
        return self.settings.channels or self.condarc.channels or (DEFAULT_CHANNEL,)

    @functools.cached_property
    def default_channels(self) -> tuple[str, ...]:
        """The configured channels, canonical: for scripts without channels, and after those of some scripts."""
        return tuple(canonical_channel(channel, base_dir=Path.cwd()) for channel in self._channels)

    @property
    def on_channels(self) -> Evidence:
        """The evidence for a decision that depends on :attr:`default_channels`."""
        here = Evidence(lasts=not any(channel.startswith(".") for channel in self._channels))
        return here if self.settings.channels else self.on_condarc.plus(here)


def load_world(
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    own_process: bool = False,
) -> World:
    """Return the world for these options, by keys of settings (None: not given).

    ``environ`` defaults to the process's variables. Raises CetoolError for invalid settings, and if there is no place
    for a cache.
    """
    since = time.time()
    given = {key: value for key, value in (options or {}).items() if value is not None}
    environ = MappingProxyType(caller_environ() if environ is None else dict(environ))
    seen = seen_configuration(search_path(environ, root_prefix=conda_root(environ)))
    named = environ.get("CETOOL_CONFIG_FILE") or "/"
    path = config_file_path(environ)
    seen = seen.plus(seen_configuration([] if path is None else [str(path)], moves=named[0] not in "/~"))
    loaded = load_settings(environ, options=given)
    paths = resolve_paths(environ, loaded.settings.env_dir, trusted=loaded.settings.trust_cache_dir)
    return World(
        environ=environ,
        loaded=loaded,
        paths=paths,
        store=Store(paths),
        since=since,
        evidence=seen,
        options=MappingProxyType(given),
        own_process=own_process,
    )


def world_in(data: Path, settings: Mapping[str, object] = MappingProxyType({})) -> World:
    """Return the world of a server: its variables, conda's configuration, and a store in its data directory.

    Settings of cetool come from ``cetool.yaml`` in the directory, not from the user that runs the server.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("CETOOL_")}
    own |= {"CETOOL_CACHE_DIR": str(data), "CETOOL_CONFIG_FILE": str(data / "cetool.yaml")}
    options = {**settings, "engine": "rattler", "env_dir": data / "envs", "offline": False}
    return load_world(options, {**own, "UV_CACHE_DIR": str(data / "pkgs" / "uv")}, own_process=True)


def prepare(*places: Paths) -> None:
    """Make the directories of stores, or check that they belong to this user. Raises StoreError."""
    for paths in places:
        for directory in dict.fromkeys((paths.root, paths.envs, paths.locks, paths.trash)):
            ensure_private_dir(directory, trust=paths.trusted)
