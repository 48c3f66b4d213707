"""The world that a use case works in: variables, settings with their origins, paths, conda's configuration, engines."""

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
#: The state of a file that is not there.
ABSENT = b"-"


class Evidence(Value):
    """What a decision rests on: as long as all of it holds, the next run decides the same."""

    #: The states of configuration files before they were read (:func:`cetool.launch.records.states`).
    configuration: Mapping[bytes, bytes] = _NOTHING
    #: The states of other files that decide, or would if they were there: locks, requirements files, baselines, news.
    files: Mapping[bytes, bytes] = _NOTHING
    #: Whether it matters which engine is found, and so what PATH is.
    by_path: bool = False
    #: Whether the next run, in whatever directory, decides the same and does not have to say the same again.
    lasts: bool = True
    #: The file whose age says that it is time for a cold run.
    stamp: bytes = b""

    def plus(self, *others: Evidence) -> Evidence:
        """This and the others; of a file that several looked at, the state that was seen first."""
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
#: That a run has to say the same again.
PASSING = Evidence(lasts=False)


def seen_configuration(paths: Sequence[str], *, moves: bool = False) -> Evidence:
    """The states of configuration files about to be read; ``moves``: which they are depends on the directory."""
    return Evidence(states(paths), lasts=not moves and all(map(os.path.isabs, paths)))


def seen_files(paths: Sequence[str]) -> Evidence:
    """The states of other files that are about to be read."""
    return Evidence(files={os.fsencode(path): file_state(os.fsencode(path)) for path in paths})


@final
class World:
    """What does not change while cetool works. Lookups are made when they are first asked for, and kept."""

    #: The caller's variables.
    environ: Mapping[str, str]
    #: The settings in force, each with its origin.
    loaded: LoadedSettings
    paths: Paths
    store: Store
    #: Seconds since 1970 before anything was read.
    since: float
    #: What the settings and the channels rest on.
    evidence: Evidence
    #: The settings that the command line, or the program that uses the library, has set itself.
    options: Mapping[str, object]
    #: Whether the process is cetool's own, and not that of a program that uses the library.
    own_process: bool

    def __init__(self, **values: Any) -> None:
        """Use :func:`load_world`."""
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a world is frozen: {name}")

    def without(self, variable: str) -> World:
        """The same without a variable: nothing that is executed from now on gets it."""
        environ = {name: value for name, value in self.environ.items() if name != variable}
        kept = ("loaded", "paths", "store", "since", "evidence", "options", "own_process")
        return World(environ=environ, **{name: getattr(self, name) for name in kept})

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.loaded.settings

    @property
    def platform(self) -> str:
        """The subdir that environments are made for: this machine's, unless ``CONDA_SUBDIR`` names another."""
        return self.environ.get("CONDA_SUBDIR") or current_platform()

    @property
    def packages(self) -> Path:
        """The embedded engine's package cache."""
        return self.settings.pkg_dir or self.paths.packages

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        return self.settings.offline or self.loaded.condarc.offline

    @property
    def channels_given(self) -> bool:
        """Whether the command line names channels, instead of those declared."""
        return "channels" in self.options

    def is_plain(self, *repeated: str) -> bool:
        """Whether a next call decides the same and says no more, whose options are ``repeated`` alone of this one's."""
        if self.options.keys() - {"verbosity", "offline", *repeated}:
            return False
        loaded = load_settings(self.environ) if self.options else self.loaded
        return loaded.settings.verbosity != "verbose"

    def request(self, spec: EnvironmentSpec, prefix: Path = Path(), log: Path = Path()) -> EngineRequest:
        """The request to make, or to solve, the environment of a spec under the settings in force."""
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

    # --- engines ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def engine_environ(self) -> dict[str, str]:
        """The variables that engines get: the caller's, and the settings that concern package caches."""
        environ = trusting(self.environ) if self.settings.trust_cache_dir else dict(self.environ)
        return {**environ, "CONDA_PKGS_DIRS": str(self.settings.pkg_dir)} if self.settings.pkg_dir else environ

    @functools.cached_property
    def engine(self) -> tuple[Engine, str]:
        """The engine that makes environments, and why it was chosen."""
        from cetool.engines.choice import choose_engine  # engines: only for what is made

        return choose_engine(
            self.settings.engine, self.engine_environ, lock_dir=self.paths.locks, cache_dir=self.packages
        )

    @functools.cached_property
    def _likely_engine(self) -> Found:
        """The engine that would be chosen, as far as that can be said without starting a program."""
        from cetool.engines.discovery import find_engines  # only for scripts whose channels are the configured ones

        found = find_engines(self.environ)
        wanted = self.settings.engine
        return next((item for item in found if (item.name == wanted if wanted else item.problem is None)), found[-1])

    @functools.cached_property
    def root_prefix(self) -> str | None:
        """The installation of the engine that would be chosen, None where it has none."""
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
        """conda's configuration as the engine that would be chosen reads it."""
        return self._engine_condarc[0]

    @property
    def on_condarc(self) -> Evidence:
        """What a decision rests on for which :attr:`condarc` was read."""
        return self._engine_condarc[1]

    @functools.cached_property
    def _channels(self) -> tuple[str, ...]:
        return self.settings.channels or self.condarc.channels or (DEFAULT_CHANNEL,)

    @functools.cached_property
    def default_channels(self) -> tuple[str, ...]:
        """The configured channels, in canonical form: of a script that names none, and after those that some name."""
        return tuple(canonical_channel(channel, base_dir=Path.cwd()) for channel in self._channels)

    @property
    def on_channels(self) -> Evidence:
        """What a decision rests on for which :attr:`default_channels` count."""
        here = Evidence(lasts=not any(channel.startswith(".") for channel in self._channels))
        return here if self.settings.channels else self.on_condarc.plus(here)


def load_world(
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    own_process: bool = False,
) -> World:
    """The world with these options, by the settings' keys (None: not given); ``environ`` are the process's variables
    unless others are given. Raises CetoolError for settings that are wrong, and where there is no place for a cache.
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


def prepare(*places: Paths) -> None:
    """Make the directories of stores, or see that they are this user's. Raises StoreError with the reason."""
    for paths in places:
        for directory in dict.fromkeys((paths.root, paths.envs, paths.locks, paths.trash)):
            ensure_private_dir(directory, trust=paths.trusted)
