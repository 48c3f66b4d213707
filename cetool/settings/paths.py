"""Decide where cetool keeps its files. :mod:`cetool.base.ownership` checks who else can write there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cetool.base.errors import StoreError
from cetool.base.values import Value


class Paths(Value):
    """The absolute paths of everything that cetool keeps; they need not exist.

    ``envs``, ``locks`` and ``trash`` are on one file system and move together with the setting ``env-dir``, so that all
    users who share the environments share their locks; everything else belongs to this user, below ``root``.
    ``config_file`` is None without a home directory. ``trusted`` says that the user trusts everyone who can write to
    these directories (``trust-cache-dir``): otherwise, check a directory before opening it.
    """

    root: Path
    envs: Path
    locks: Path
    trash: Path
    config_file: Path | None
    trusted: bool = False

    @property
    def database(self) -> Path:
        """The usage log (SQLite)."""
        return self.root / "usage.sqlite3"

    @property
    def spool(self) -> Path:
        """Where runs append lines for the usage log."""
        return self.root / "spool"

    @property
    def logs(self) -> Path:
        """What engines printed: one file for each creation of an environment."""
        return self.root / "logs"

    @property
    def packages(self) -> Path:
        """The embedded engine's package cache, unless ``pkg-dir`` says otherwise."""
        return self.root / "pkgs"

    @property
    def scripts(self) -> Path:
        """Scripts from a URL, standard input or the command line, and the scripts' own cache directories."""
        return self.root / "scripts"

    @property
    def copies(self) -> Path:
        """The last copy of each script that ran from a URL."""
        return self.root / "copies"

    @property
    def baselines(self) -> Path:
        """Copies of baselines."""
        return self.root / "baselines"

    @property
    def answers(self) -> Path:
        """What servers answered, and when they did not."""
        return self.root / "answers"

    @property
    def launch(self) -> Path:
        """The launch records of the warm path."""
        return self.root / "launch"

    @property
    def gc_stamp(self) -> Path:
        """The file whose time says when garbage collection last ran."""
        return self.root / "gc.stamp"


def resolve_paths(environ: Mapping[str, str], env_dir: Path | None = None, *, trusted: bool = False) -> Paths:
    """Return the paths for these variables; ``env_dir`` and ``trusted`` (``trust-cache-dir``) are settings.

    Raises StoreError if there is no place for a cache (no ``CETOOL_CACHE_DIR``, ``XDG_CACHE_HOME`` or home directory:
    cron, containers), or if a variable has a relative path.
    """
    root = _cache_root(environ)
    config_file = config_file_path(environ)
    if env_dir is None or env_dir == root / "envs":
        return Paths(root, root / "envs", root / "locks", root / "trash", config_file, trusted)
    return Paths(root, env_dir, env_dir / ".locks", env_dir / ".trash", config_file, trusted)


def config_file_path(environ: Mapping[str, str]) -> Path | None:
    """Return ``CETOOL_CONFIG_FILE``, or ``config.yaml`` in the user's configuration directory; None without a home."""
    named = environ.get("CETOOL_CONFIG_FILE")
    if named:
        return Path(os.path.abspath(expand_user(named, environ)))
    base = _user_dir(environ, "XDG_CONFIG_HOME", ".config", kind="config")
    return None if base is None else base / "config.yaml"


def trust_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory that records which scripts from elsewhere the user agreed to run; None without a home.

    Raises StoreError for a ``CETOOL_DATA_DIR`` that is not an absolute path.
    """
    return _data_directory(environ, "trust")


def servers_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory with the keys and tokens of servers; None without a home. Raises StoreError as above."""
    return _data_directory(environ, "servers")


def _data_directory(environ: Mapping[str, str], name: str) -> Path | None:
    """Return a directory of what cannot be made again.

    It is below ``CETOOL_DATA_DIR``, else in the user's data directory. Raises StoreError for a ``CETOOL_DATA_DIR`` that
    is not an absolute path.
    """
    named = _named_dir(environ, "CETOOL_DATA_DIR", "Write the full path, starting with /.")
    if named is not None:
        return named / name
    base = _user_dir(environ, "XDG_DATA_HOME", ".local/share", kind="data")
    return None if base is None else base / name


def home_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the home directory: ``HOME``, else the password database's; None if neither has one.

    Raises StoreError for a ``HOME`` that is not an absolute path.
    """
    home = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if home:
        if not Path(home).is_absolute():
            raise StoreError(
                f"HOME is {home!r}, which is not an absolute path",
                code="setting-invalid",
                hint="Set HOME to your home directory, or CETOOL_CACHE_DIR to an absolute path.",
            )
        return Path(home)
    if sys.platform == "win32":
        return None
    import pwd

    try:
        entry = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return Path(entry) if Path(entry).is_absolute() else None


def expand_user(text: str, environ: Mapping[str, str]) -> str:
    """Replace a leading ``~`` or ``~/`` by the home directory, ``~name`` by that user's."""
    if text == "~" or text.startswith(("~/", "~" + os.sep)):
        home = home_directory(environ)
        return text if home is None else f"{home}{text[1:]}"
    return os.path.expanduser(text) if text.startswith("~") else text


def conda_root(environ: Mapping[str, str]) -> str | None:
    """Return the prefix of the conda installation that the variables name (``CONDA_ROOT``, ``CONDA_EXE``)."""
    executable = environ.get("CONDA_EXE", "")
    return environ.get("CONDA_ROOT") or (
        str(Path(executable).parent.parent) if Path(executable).is_absolute() else None
    )


def _cache_root(environ: Mapping[str, str]) -> Path:
    hint = "Write the full path, starting with /."
    named = _named_dir(environ, "CETOOL_CACHE_DIR", hint)
    if named is not None:
        return named
    base = _user_dir(environ, "XDG_CACHE_HOME", ".cache", kind="cache")
    if base is None:
        raise StoreError(
            "there is no cache directory: HOME is not set (as in a cron job), and the password database has no home "
            "directory for this user",
            code="home-missing",
            hint="Set HOME, or set CETOOL_CACHE_DIR to the absolute path of a directory of your own.",
        )
    return base


def _named_dir(environ: Mapping[str, str], variable: str, hint: str) -> Path | None:
    """Return the directory that a variable names. Raises StoreError if it is not an absolute path."""
    named = environ.get(variable)
    if not named:
        return None
    expanded = expand_user(named, environ)
    if not Path(expanded).is_absolute():
        raise StoreError(
            f"{variable} is {named!r}, which is not an absolute path", code="setting-invalid", about=variable, hint=hint
        )
    return Path(os.path.normpath(expanded))


def _user_dir(environ: Mapping[str, str], variable: str, below_home: str, *, kind: str) -> Path | None:
    """Return ``cetool`` in the user's cache, configuration or data directory, as platformdirs does.

    On Linux it is computed here from the given variables: platformdirs reads the process's own.
    """
    if sys.platform in ("win32", "darwin"):
        import platformdirs

        directories = {
            "cache": platformdirs.user_cache_dir,
            "config": platformdirs.user_config_dir,
            "data": platformdirs.user_data_dir,
        }
        return Path(directories[kind]("cetool", appauthor=False))
    xdg = environ.get(variable, "")
    if Path(xdg).is_absolute():  # the XDG specification says to ignore relative ones
        return Path(os.path.normpath(xdg), "cetool")
    home = home_directory(environ)
    return None if home is None else home / below_home / "cetool"
