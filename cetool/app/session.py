"""What every command works with: variables, settings, paths, the store, the engine, put together once."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool import __version__
from cetool.base.durations import format_size
from cetool.base.errors import EngineError, StoreError
from cetool.base.ownership import ensure_private_dir, trusting
from cetool.base.process import Consent, issue
from cetool.base.text import pattern
from cetool.cli.progress import Voice
from cetool.declare.channels import canonical_channel
from cetool.declare.environment import EnvironmentSpec, Exact, Over
from cetool.declare.match_specs import spec_name
from cetool.declare.platforms import current_platform
from cetool.declare.requirements import DEFAULT_CHANNEL, Requirements
from cetool.launch.records import states
from cetool.settings.condarc import Condarc, load_condarc, search_path
from cetool.settings.paths import Paths, conda_root, config_file_path, resolve_paths
from cetool.settings.settings import load_settings
from cetool.store.disk import delete_tree
from cetool.store.making import ensure
from cetool.store.marker import Marker, what_is_lost
from cetool.store.store import Lease, Store, note_made
from cetool.warm import file_state
from cetool.warm.environ import caller_environ

if TYPE_CHECKING:  # engines and the log are for those who need them: each import delays the script
    from cetool.app.baselines import OnBaselines
    from cetool.app.sources import Foreign
    from cetool.engines.protocol import Engine, EngineRequest, Found, Hold, Progress
    from cetool.store.making import Settling
    from cetool.store.usage import UsageLog

_OVERRIDE = pattern(r"CONDA_OVERRIDE_([A-Z][A-Z0-9_]*)\Z")
#: Names told in the line that says what was made.
_MOST_NAMES = 8


class Session:
    """One call of cetool: what it was asked with (``options``, by the settings' keys) and what it works on."""

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        #: Seconds since 1970 before anything was read.
        self.started = time.time()
        options = {key: value for key, value in (options or {}).items() if value is not None}
        self._options = options
        self.environ = caller_environ()
        #: The states of all files that settings and channels come from, or would if they were there, before a read.
        self.configuration: dict[bytes, bytes] = {}
        #: Whether the engine's configuration was read, and so which engine was found had a say in what came of it.
        self.asked_engine = False
        #: The scripts from URLs that were opened: each is asked about before anything is executed for it.
        self.foreign: list[Foreign] = []
        #: The states of the files that would be the script's lock, before they were read.
        self.locks: dict[bytes, bytes] = {}
        #: Whether the next call has to say the same again.
        self.repeats_itself = False
        #: What is done once the environment is made, or was found to be there.
        self.once_made: list[Callable[[], None]] = []
        #: What became of the baselines, where there are some.
        self.on_baselines: OnBaselines | None = None
        #: The file by whose age a warm run sees that it is time for a cold one; none but that of the collection.
        self.stamp = b""
        self._moves = False
        self.watch(search_path(self.environ, root_prefix=conda_root(self.environ)))
        named = self.environ.get("CETOOL_CONFIG_FILE") or "/"
        self.watch([str(path)] if (path := config_file_path(self.environ)) else [], moves=named[0] not in "/~")
        self.loaded = load_settings(self.environ, options=options)
        self.settings = self.loaded.settings
        self.voice = Voice(self.settings.verbosity, self.environ)
        for variable in self.loaded.unknown:
            self.voice.warn(f"{variable} is ignored: cetool has no such variable")
        self.paths = resolve_paths(self.environ, self.settings.env_dir, trusted=self.settings.trust_cache_dir)
        self.store = Store(self.paths)

    def consent(self) -> Consent:
        """The consent that everything wants which executes or fetches what a script declares.

        Where scripts from URLs were opened the user is asked about each, once. Raises CetoolError where that is a no.
        """
        if not self.foreign:
            return issue("own")
        from cetool.app.consent import consent_to

        return consent_to(self.foreign, self)

    @property
    def is_usual(self) -> bool:
        """Whether the next call without options, from wherever, would come to the same and say no more than this."""
        return self.comes_again()

    def comes_again(self, *repeated: str) -> bool:
        """As :attr:`is_usual`, of a next call whose options are these alone of this one's."""
        if self._options.keys() - {"verbosity", "offline", *repeated} or self._moves or self.repeats_itself:
            return False
        loaded = load_settings(self.environ) if self._options else self.loaded
        return loaded.settings.verbosity != "verbose"

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

    @functools.cached_property
    def engine_environ(self) -> dict[str, str]:
        """The variables that engines get: the caller's, and the settings that concern package caches."""
        environ = trusting(self.environ) if self.settings.trust_cache_dir else self.environ
        return {**environ, "CONDA_PKGS_DIRS": str(self.settings.pkg_dir)} if self.settings.pkg_dir else environ

    @functools.cached_property
    def engine(self) -> tuple[Engine, str]:
        """The engine that serves, and why it was taken."""
        from cetool.engines.choice import choose_engine

        return choose_engine(
            self.settings.engine, self.engine_environ, lock_dir=self.paths.locks, cache_dir=self.packages
        )

    @functools.cached_property
    def _likely_engine(self) -> Found:
        """The engine that would be taken, as far as that can be told without starting a program."""
        from cetool.engines.discovery import find_engines

        found = find_engines(self.environ)
        wanted = self.settings.engine
        return next((item for item in found if (item.name == wanted if wanted else item.problem is None)), found[-1])

    @functools.cached_property
    def condarc(self) -> Condarc:
        """conda's configuration as the engine that would be taken reads it."""
        engine = self._likely_engine
        root, mamba = self._root_prefix(engine), engine.name != "conda"
        self.asked_engine = True
        self.watch(search_path(self.environ, root_prefix=root, mamba=mamba))
        self.watch([engine.path] if engine.path else [])
        return load_condarc(self.environ, root_prefix=root, mamba=mamba)

    def watch_locks(self, paths: Sequence[str]) -> Mapping[bytes, bytes]:
        """The states of the files that would be a script's lock, remembered for its launch record; ``-``: none."""
        found = {os.fsencode(path): file_state(os.fsencode(path)) for path in paths}
        self.locks = {**self.locks, **found}
        return found

    def watch_files(self, paths: Sequence[str]) -> None:
        """Remember the states of other files that decide, or are news, in the same way."""
        self.watch_locks(paths)

    def watch(self, paths: Sequence[str], *, moves: bool = False) -> None:
        """Remember the states of files that are about to be read; those seen before stay as they were seen."""
        self._moves = self._moves or moves or not all(map(os.path.isabs, paths))
        self.configuration = {**states(paths), **self.configuration}

    @property
    def root_prefix(self) -> str | None:
        """The installation of the engine that would be taken, None where it has none."""
        return self._root_prefix(self._likely_engine)

    def _root_prefix(self, engine: Found) -> str | None:
        from cetool.engines.protocol import root_of

        if engine.name == "conda":
            return conda_root(self.environ) or (str(root_of(engine.path)) if engine.path else None)
        if engine.name == "rattler":
            return conda_root(self.environ)
        return self.environ.get("MAMBA_ROOT_PREFIX") or (str(root_of(engine.path)) if engine.path else None)

    @functools.cached_property
    def default_channels(self) -> tuple[str, ...]:
        """The configured channels, in canonical form: of a script that names none, and after those that some name."""
        named = self.settings.channels or self.condarc.channels or (DEFAULT_CHANNEL,)
        self._moves = self._moves or any(channel.startswith(".") for channel in named)
        return tuple(canonical_channel(channel, base_dir=Path.cwd()) for channel in named)

    @property
    def channels_given(self) -> bool:
        """Whether the command line names channels, instead of those declared."""
        return "channels" in self._options

    def spec_of(self, requirements: Requirements, *, exclude_newer: str | None = None) -> EnvironmentSpec:
        """The complete request: what was declared, with the channels and overrides in force here.

        ``exclude_newer`` is a day or a moment as of which it is solved. Raises UsageError for what is neither.
        """
        spec = self._spec_of(requirements)
        if exclude_newer is None and requirements.exclude_newer is not None:
            moment = requirements.exclude_newer
            settings = spec.pypi_settings
            if spec.pypi and settings.exclude_newer is None:  # [tool.uv] may have one of its own
                settings = settings._replace(exclude_newer=moment)
            return spec._replace(exclude_newer=moment, pypi_settings=settings)
        if exclude_newer is None:
            return spec
        from cetool.base.durations import exclude_newer as moment_of
        from cetool.base.durations import rfc3339

        moment = rfc3339(moment_of(exclude_newer))
        settings = spec.pypi_settings._replace(exclude_newer=moment) if spec.pypi else spec.pypi_settings
        return spec._replace(exclude_newer=moment, pypi_settings=settings)

    def _spec_of(self, requirements: Requirements) -> EnvironmentSpec:
        self.watch_files(requirements.files)
        if self.channels_given:
            requirements = requirements.plus(Requirements(channels=self.default_channels))
        if requirements.overlay is not None:
            from cetool.app.overlaying import overlay_spec

            return overlay_spec(self, requirements)
        return EnvironmentSpec.of(
            requirements,
            default_channels=self.default_channels if requirements.needs_configured else (),
            virtual_packages=tuple(
                ("__" + match[1].lower(), value)
                for name, value in self.environ.items()
                if (match := _OVERRIDE.match(name))
            ),
        )

    def prepare_cache(self) -> None:
        """Make the directories of the cache, or see that they are this user's. Raises StoreError with the reason."""
        self.prepare(self.paths)

    def prepare(self, paths: Paths) -> None:
        """Make the directories of a store, or see that they are this user's. Raises StoreError with the reason."""
        for directory in dict.fromkeys((paths.root, paths.envs, paths.locks, paths.trash)):
            ensure_private_dir(directory, trust=paths.trusted)

    def store_of(self, spec: EnvironmentSpec) -> Store:
        """The store that the environment of the spec is in, or would be."""
        if spec.overlay is None:
            return self.store
        from cetool.app.overlaying import overlay_store

        return overlay_store(self, spec)

    def environment(
        self,
        requirements: Requirements,
        spec: EnvironmentSpec,
        *,
        refresh: bool = False,
        keep: bool = False,
        purpose: str = "",
        meanwhile: Callable[[], None] | None = None,
    ) -> Lease:
        """The environment of the spec, held in use; made where it is absent, while the user sees how far it is.

        What lies over a base that has changed is laid anew, unless ``keep`` asks for it as it was. ``meanwhile`` is
        called while an engine is at work.
        """
        if spec.overlay is not None:
            from cetool.app.overlaying import overlay_environment

            return overlay_environment(self, spec, refresh=refresh, keep=keep, purpose=purpose)
        lease = self._environment(requirements, spec, refresh, purpose, meanwhile)
        if lease.created and requirements.without and isinstance(spec.what, (Exact, Over)):
            from cetool.app.baselines import after_removal

            for told in after_removal(lease.prefix, requirements):
                self.voice.warn(told)
        for remember in self.once_made:
            remember()
        self.once_made.clear()
        return lease

    def _environment(
        self,
        requirements: Requirements,
        spec: EnvironmentSpec,
        refresh: bool,
        purpose: str,
        meanwhile: Callable[[], None] | None,
    ) -> Lease:
        if not refresh:
            lease = self.store.lease(spec.name)
            lost = None if lease is None else what_is_lost(lease.prefix, lease.marker)
            if lease is not None and lost is None:
                self._refuse_foreign(lease)
                return lease
            if lease is not None:
                lease.release()
                self.voice.warn(f"the environment {lease.prefix.name} is damaged, {lost}: it is made anew")
                refresh = True
        consent = self.consent()
        self.prepare_cache()
        with self.voice.progress() as progress:
            from cetool.app.making_progress import Making  # engines are for those who make something
            from cetool.engines.protocol import Hold

            def build(prefix: Path, log: Path, descriptors: tuple[int, ...], settling: Settling) -> Marker:
                request = self.request(spec, prefix, log)
                return self._build(request, Making(progress, settling, meanwhile), Hold(consent, descriptors))

            lease = ensure(self.store, spec, build, refresh=refresh, on_wait=progress.wait, purpose=purpose)
        if lease.created:
            self.voice.say(_created(requirements, lease.marker))
            with contextlib.suppress(OSError):  # the log finds it on the disk as well, and counts it as used then
                note_made(self.paths.spool, lease.prefix.name)
        return lease

    def _refuse_foreign(self, lease: Lease) -> None:
        """Raise StoreError for an environment of another platform: a home directory may be shared by several."""
        wanted = self.platform
        if lease.marker.subdir != wanted:
            lease.release()
            raise StoreError(
                f"the environment {lease.prefix} was made for {lease.marker.subdir}, and this is {wanted}",
                code="platform-mismatch",
                hint="Machines of several platforms need a cache each (CETOOL_CACHE_DIR); --refresh makes it for this.",
            )

    def request(self, spec: EnvironmentSpec, prefix: Path = Path(), log: Path = Path()) -> EngineRequest:
        """The request to make, or to solve, the environment of the spec under the settings in force."""
        from cetool.engines.protocol import EngineRequest

        return EngineRequest(
            spec,
            prefix,
            log,
            environ=self.engine_environ,
            cache=self.packages,
            offline=self.offline,
            stall_timeout=self.settings.stall_timeout,
            installer=self.settings.pip_installer,
        )

    def _build(self, request: EngineRequest, progress: Progress, hold: Hold) -> Marker:
        from cetool.engines.choice import choose_anew

        engine, reason = self.engine
        try:
            return self._build_by(engine, reason, request, progress, hold)
        except EngineError:
            wanted, places = self.settings.engine, {"lock_dir": self.paths.locks, "cache_dir": self.packages}
            other = choose_anew(engine, wanted, self.engine_environ, **places)
            if other is None:
                raise
        self.engine = other
        delete_tree(request.prefix)
        return self._build_by(*other, request, progress, hold)

    def _build_by(self, engine: Engine, reason: str, request: EngineRequest, progress: Progress, hold: Hold) -> Marker:
        from cetool.engines.build import build_environment

        if self.settings.verbosity == "verbose":  # else nobody is told, and asking may take long
            progress.note(f"Engine: {engine.name} {engine.version}: {reason}")
        pypi = None
        if request.exact_pypi or request.asked_pypi:
            from cetool.engines.pypi.install import Installing  # 60 ms that few environments need

            pypi = Installing()
        started = time.monotonic()
        packages, size = build_environment(engine, request, progress, hold, pypi)
        maker = (engine.name, engine.version)
        return self.marker(request.spec, request.prefix, maker, started, packages=packages, size=size)

    def marker(
        self, spec: EnvironmentSpec, prefix: Path, maker: tuple[str, str], started: float, *, packages: int, size: int
    ) -> Marker:
        """The marker of what has just been made at ``prefix``, by a maker of this name and version.

        ``started`` is of the monotonic clock, in seconds; ``size`` in bytes.
        """
        return Marker(
            name=spec.name,
            prefix=str(prefix),
            subdir=self.platform,
            spec=spec,
            engine=maker[0],
            engine_version=maker[1],
            created=time.time(),
            seconds=round(time.monotonic() - started, 3),
            packages=packages,
            size=size,
            cetool=__version__,
        )

    @contextlib.contextmanager
    def usage(self) -> Iterator[UsageLog]:
        """The usage log, in agreement with the disk. Raises StoreError where it cannot be used."""
        from cetool.store.usage import open_usage_log

        with open_usage_log(self.paths, self.store, warn=self.voice.warn) as log:
            yield log


def _created(requirements: Requirements, marker: Marker) -> str:
    names = list(dict.fromkeys((*map(spec_name, requirements.packages), *map(requirement_name, requirements.pypi))))
    told = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    count = f"{marker.packages} package{'' if marker.packages == 1 else 's'}"
    what = f"{told}; {count}" if told else count
    return f"Created {marker.name} ({what}, {format_size(marker.size)}) in {marker.seconds:.1f}s with {marker.engine}"


def requirement_name(requirement: str) -> str:
    """The distribution's name at the front of a PEP 508 requirement."""
    return re.split(r"[\s\[;@<>=!~(]", requirement, maxsplit=1)[0]


def canonical_requirements(texts: Sequence[str]) -> Requirements:
    """Match specs from the command line as requirements."""
    from cetool.declare.match_specs import canonical_spec

    return Requirements(packages=tuple(canonical_spec(text, base_dir=os.getcwd()) for text in texts))
