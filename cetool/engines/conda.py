"""Drives conda, as a subprocess with the user's own configuration, mirrors, credentials and package cache.

Its output without ``--json`` is read: there the stages come as they begin, and a malformed spec does not crash it.
conda adds pip to every python unless its configuration says otherwise; that is left to the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cetool.base.errors import CetoolError
from cetool.base.limits import PACKAGE, read_regular
from cetool.base.process import clean_environ
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.declare.package import Package
from cetool.engines.explicit import distinct, explicit_file, require_sha256
from cetool.engines.outcome import conclude
from cetool.engines.output import CondaStages, logged
from cetool.engines.private import PrivateFiles, condarc_file, has_credentials, netrc_file, spec_file
from cetool.engines.program import Program, literal
from cetool.engines.protocol import CreateRequest, Explain, Progress, root_of
from cetool.engines.subprocesses import Invocation, run_engine
from cetool.engines.turns import turn
from cetool.packages.cache import checked_caches
from cetool.settings.condarc import load_condarc

#: Variables of the user's that would change what a creation prints or does.
_DROPPED = ("CONDA_JSON", "CONDA_QUIET", "CONDA_DRY_RUN", "CONDA_DOWNLOAD_ONLY")
#: The first conda that knows SHA-256 in an explicit file.
_SHA256_SINCE = (24, 9)
_HISTORY = pattern(r"^# conda version: (\d\S*)$", re.MULTILINE)


class CondaEngine(Program):
    """conda 4.9 and later, and mamba 1, which is conda with another solver.

    ``executable`` is the beginning of the command line: ``("/opt/conda/bin/conda",)``, or ``(python, "-m", "conda")``;
    ``lock_dir`` holds the locks by which creations take turns.
    """

    def __init__(
        self,
        executable: tuple[str, ...],
        environ: Mapping[str, str],
        *,
        lock_dir: Path,
        name: str = "conda",
        version: str | None = None,
    ) -> None:
        super().__init__(name, executable, environ, version)
        self._lock_dir = lock_dir

    def create(self, request: CreateRequest, progress: Progress) -> Explain:
        """Make the environment; see :class:`~cetool.engines.protocol.Engine`."""
        request = literal(request)
        packages = distinct(request.explicit)
        if packages:
            from cetool.engines.explicit_checks import check_local_archives

            require_sha256(packages, self.name, self.version, _SHA256_SINCE)
            check_local_archives(packages)
        if self.name != "conda":  # which tells its version in the environment's history, without being asked
            request = self.asked_meanwhile(request)
        from cetool.engines.linked import verified

        return verified(lambda each: self._make(each, packages, progress), request, progress)

    def _make(self, request: CreateRequest, packages: Sequence[Package], progress: Progress) -> Explain:
        cache = self._package_caches()[0]
        with turn(self._lock_dir, cache, progress, self.name) as lock, PrivateFiles(request) as files:
            if packages:
                from cetool.engines.explicit_checks import refuse_damaged

                refuse_damaged(packages, lambda _: self._package_caches())
            invocation = self._invocation(request, files, cache, lock)
            ended = run_engine(invocation, request, CondaStages(progress, request.nearly))
            if ended.status and self._mended(request, cache, progress):
                ended = run_engine(invocation, request, CondaStages(progress, request.nearly))
        explain = conclude(ended, request, progress, engine=self.name, done=r"Executing transaction:.*done")
        if self._version is None and self.name == "conda":
            self._version = _version_in(request.prefix)
        return explain

    def _mended(self, request: CreateRequest, cache: Path, progress: Progress) -> bool:
        """Whether what conda failed of is out of its way: packages that one which was killed left half unpacked.

        Ctrl-C here, or anything else, is no reason to fail for good.
        """
        import shutil

        from cetool.engines.linked import remove_refused

        removed = remove_refused(logged(request.log))
        if removed:
            progress.note(f"Half unpacked in {cache}, so unpacked anew: {', '.join(removed)}")
            shutil.rmtree(request.prefix, ignore_errors=True)
        return bool(removed)

    def _invocation(self, request: CreateRequest, files: PrivateFiles, cache: Path, lock: int) -> Invocation:
        environ = self._create_environ(request)
        if any(map(has_credentials, request.channels)):
            environ["CONDARC"] = str(condarc_file(files, request.channels, self._environ))
            others = (*(package.url for package in request.explicit), *request.packages)
            if netrc := netrc_file(files, request.channels, self._environ, others):
                environ["NETRC"] = str(netrc)
        argv = [*self.executable, "create", "--yes", "--prefix", str(request.prefix), "--no-default-packages"]
        argv += ["--offline"] if request.offline else []
        if request.explicit:
            argv += ["--file", str(explicit_file(files, request, request.channels))]
            return Invocation(tuple(argv), environ, watched=(request.prefix, cache), pass_fds=(lock,))
        argv += ["--override-channels"]
        for channel in request.channels:
            argv += ["--channel", strip_credentials(channel)]
        if any("://" in spec for spec in request.packages):
            # Among arguments a spec with a URL means an explicit installation, which allows no other spec beside it.
            argv += ["--file", str(spec_file(files, request))]
        else:
            argv += request.packages
        return Invocation(tuple(argv), environ, watched=(request.prefix, cache), pass_fds=(lock,))

    def _create_environ(self, request: CreateRequest) -> dict[str, str]:
        environ = clean_environ(self._environ, drop=_DROPPED)
        environ["CONDA_REGISTER_ENVS"] = "false"
        environ["CONDA_NUMBER_CHANNEL_NOTICES"] = "0"
        environ.update(override_variables(request))
        if request.stall_timeout < 60:  # conda's own limit for a server that says nothing
            environ.setdefault("CONDA_REMOTE_READ_TIMEOUT_SECS", f"{max(request.stall_timeout / 2, 1):g}")
        return environ

    def _package_caches(self) -> list[Path]:
        """The directories in which this conda keeps packages: those configured, else the one beside it and the user's.

        The first is the one that it will most likely fill.
        """
        root = self._environ.get("CONDA_ROOT") or str(root_of(self.executable[0]))
        try:
            configured = load_condarc(self._environ, root_prefix=root).pkgs_dirs
        except CetoolError:  # whatever is wrong with the configuration, conda will say it better
            configured = ()
        home = self._environ.get("HOME")
        own = [Path(root, "pkgs"), *([Path(home, ".conda", "pkgs")] if home else [])]
        return [*checked_caches(configured, root, self._environ)] or own


def _version_in(prefix: Path) -> str | None:
    """The version of the conda that made an environment, as the environment's history has it."""
    try:
        text = read_regular(prefix / "conda-meta" / "history", PACKAGE).decode("utf-8", "replace")
    except OSError:
        return None
    found = _HISTORY.findall(text)
    return str(found[-1]) if found else None


def override_variables(request: CreateRequest) -> dict[str, str]:
    """``CONDA_OVERRIDE_CUDA=12.4`` for the virtual package ``__cuda``: understood by conda and mamba."""
    return {
        "CONDA_OVERRIDE_" + name.removeprefix("__").replace("-", "_").upper(): version
        for name, version in request.virtual_packages
    }
