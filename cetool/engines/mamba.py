"""Drives micromamba and mamba 2, which are one program, with the user's own configuration and package cache.

They lock their package cache themselves and check every hash. They add pip wherever python is asked for, and write
every environment into ``~/.conda/environments.txt``, which nothing prevents: the line is taken out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cetool.base.errors import CetoolError
from cetool.base.process import clean_environ
from cetool.base.urls import split_url
from cetool.declare.package import Package
from cetool.engines.conda import override_variables
from cetool.engines.explicit import distinct, explicit_file, require_sha256
from cetool.engines.outcome import conclude
from cetool.engines.output import MambaStages
from cetool.engines.private import PrivateFiles, environment_file, has_credentials
from cetool.engines.program import Program, literal
from cetool.engines.protocol import CreateRequest, Explain, Progress, root_of
from cetool.engines.registration import forget_registration
from cetool.engines.subprocesses import Invocation, run_engine
from cetool.packages.cache import checked_caches
from cetool.settings.condarc import load_condarc

#: Variables of the user's that would change what a creation prints or does.
_DROPPED = tuple(
    f"{family}_{name}"
    for family in ("MAMBA", "CONDA")
    for name in ("JSON", "QUIET", "DRY_RUN", "DOWNLOAD_ONLY", "TARGET_PREFIX", "OVERRIDE_CHANNELS")
)
#: The first version that knows SHA-256 in an explicit file; those before install without a look at it.
_SHA256_SINCE = (2, 1)


class MambaEngine(Program):
    """micromamba (1.5 and later) or mamba 2; ``executable`` is the beginning of the command line."""

    def __init__(
        self,
        executable: tuple[str, ...],
        environ: Mapping[str, str],
        *,
        name: str = "micromamba",
        version: str | None = None,
    ) -> None:
        super().__init__(name, executable, environ, version)

    def create(self, request: CreateRequest, progress: Progress) -> Explain:
        """Make the environment; see :class:`~cetool.engines.protocol.Engine`."""
        request = literal(request)
        packages = distinct(request.explicit)
        if packages:
            from cetool.engines.explicit_checks import check_local_archives, refuse_damaged

            require_sha256(packages, self.name, self.version, _SHA256_SINCE)
            check_local_archives(packages)
            refuse_damaged(packages, self._places)
        from cetool.engines.linked import verified

        return verified(lambda each: self._make(each, progress), self.asked_meanwhile(request), progress)

    def _make(self, request: CreateRequest, progress: Progress) -> Explain:
        try:
            with PrivateFiles(request) as files:
                ended = run_engine(self._invocation(request, files), request, MambaStages(progress, request.nearly))
        finally:
            forget_registration(request.prefix, self._environ)
        return conclude(ended, request, progress, engine=self.name, done="Transaction finished")

    def _invocation(self, request: CreateRequest, files: PrivateFiles) -> Invocation:
        environ = clean_environ(self._environ, drop=_DROPPED)
        environ.update(override_variables(request))
        argv = [*self.executable, "create", "-y", "-p", str(request.prefix)]
        argv += ["--offline"] if request.offline else []
        if request.explicit:
            argv += ["--file", str(explicit_file(files, request, request.channels))]
            return Invocation(tuple(argv), environ, watched=(request.prefix, *self._package_caches()))
        argv += ["--override-channels"]
        if any(map(has_credentials, (*request.channels, *request.packages))):
            argv += ["--file", str(environment_file(files, request))]
        else:
            for channel in request.channels:
                argv += ["-c", channel]
            argv += request.packages
        return Invocation(tuple(argv), environ, watched=(request.prefix, *self._package_caches()))

    def _places(self, package: Package) -> list[Path]:
        """Where a package can be kept: below a directory for its channel, or in the cache itself."""
        parts = split_url(package.channel)
        below = f"{parts.scheme}/{parts.place.replace(':', '_')}{parts.path}/{package.subdir}"
        return [place for cache in self._package_caches() for place in (cache / below, cache)]

    def _package_caches(self) -> tuple[Path, ...]:
        root = self._environ.get("MAMBA_ROOT_PREFIX") or str(root_of(self.executable[0]))
        try:
            configured = load_condarc(self._environ, root_prefix=root, mamba=True).pkgs_dirs
        except CetoolError:  # whatever is wrong with the configuration, mamba will say it better
            configured = ()
        return checked_caches(configured, root, self._environ) or (Path(root) / "pkgs",)
