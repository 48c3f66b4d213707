"""Where cetool's things lie on this machine, and whether a directory may be trusted with them.

What runs from the cache runs as the user, so a directory is used only if nobody else could have put things in it: the
rules are those of ssh for its keys, extended to every directory and symbolic link on the way there.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from cetool.errors import StoreError
from cetool.values import Value

_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: As many symbolic links as Linux follows on one path.
_MOST_LINKS = 40
_CHOOSE = "Set CETOOL_CACHE_DIR to a directory that you may write to."
_TRUST = (
    "If it is shared by people you trust, pass --trust-cache-dir or set trust-cache-dir; "
    "otherwise set CETOOL_CACHE_DIR to a directory of your own."
)


class Paths(Value):
    """The absolute paths of all that cetool keeps; none of them needs to exist.

    ``envs``, ``locks`` and ``trash`` are on one file system and move together with the setting ``env-dir``, so that all
    who share the environments share their locks; everything else is this user's own, below ``root``. ``config_file`` is
    None where there is no home directory to look for it in.
    """

    root: Path
    envs: Path
    locks: Path
    trash: Path
    config_file: Path | None

    @property
    def database(self) -> Path:
        """The usage log (SQLite)."""
        return self.root / "usage.sqlite3"

    @property
    def spool(self) -> Path:
        """Where warm runs leave their notes for the usage log."""
        return self.root / "spool"

    @property
    def logs(self) -> Path:
        """What engines printed, a file for each creation."""
        return self.root / "logs"

    @property
    def packages(self) -> Path:
        """The embedded engine's package cache, unless ``pkg-dir`` says otherwise."""
        return self.root / "pkgs"

    @property
    def scripts(self) -> Path:
        """Scripts that came from a URL, standard input or the command line, and the scripts' own cache directories."""
        return self.root / "scripts"

    @property
    def copies(self) -> Path:
        """The last copy of each script that ran from a URL."""
        return self.root / "copies"

    @property
    def baselines(self) -> Path:
        """What is kept of baselines."""
        return self.root / "baselines"

    @property
    def launch(self) -> Path:
        """The launch records of the warm path."""
        return self.root / "launch"

    @property
    def gc_stamp(self) -> Path:
        """The file whose time says when collection last looked."""
        return self.root / "gc.stamp"


def resolve_paths(environ: Mapping[str, str], env_dir: Path | None = None) -> Paths:
    """The paths that hold in this environment; ``env_dir`` is the setting of that name.

    Raises StoreError where the machine says nowhere where a cache could be (no ``CETOOL_CACHE_DIR``, no
    ``XDG_CACHE_HOME``, no home directory: cron, containers), or says it by a relative path.
    """
    root = _cache_root(environ)
    config_file = config_file_path(environ)
    if env_dir is None or env_dir == root / "envs":
        return Paths(root, root / "envs", root / "locks", root / "trash", config_file)
    return Paths(root, env_dir, env_dir / ".locks", env_dir / ".trash", config_file)


def config_file_path(environ: Mapping[str, str]) -> Path | None:
    """``CETOOL_CONFIG_FILE``, or ``config.yaml`` in the user's configuration directory; None without a home."""
    named = environ.get("CETOOL_CONFIG_FILE")
    if named:
        return Path(os.path.abspath(expand_user(named, environ)))
    base = _user_dir(environ, "XDG_CONFIG_HOME", ".config", kind="config")
    return None if base is None else base / "config.yaml"


def trust_directory(environ: Mapping[str, str]) -> Path | None:
    """Where it is kept which scripts from elsewhere the user agreed to run; None without a home.

    Below ``CETOOL_DATA_DIR``, else in the user's data directory: answers are no cache, nothing can bring them back.
    Raises StoreError for a ``CETOOL_DATA_DIR`` that is no absolute path.
    """
    named = environ.get("CETOOL_DATA_DIR")
    if named:
        expanded = expand_user(named, environ)
        if not Path(expanded).is_absolute():
            raise StoreError(
                f"CETOOL_DATA_DIR is {named!r}, which is not an absolute path", hint="Write the path from / on."
            )
        return Path(os.path.normpath(expanded), "trust")
    base = _user_dir(environ, "XDG_DATA_HOME", ".local/share", kind="data")
    return None if base is None else base / "trust"


def home_directory(environ: Mapping[str, str]) -> Path | None:
    """The home directory: ``HOME``, else the password database's; None where neither has one.

    Raises StoreError for a ``HOME`` that is no absolute path.
    """
    home = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if home:
        if not Path(home).is_absolute():
            raise StoreError(
                f"the home directory is given as {home!r}, which is not an absolute path",
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
    """The text with a ``~`` or ``~/`` in front replaced by the home directory, ``~name`` by that user's."""
    if text == "~" or text.startswith(("~/", "~" + os.sep)):
        home = home_directory(environ)
        return text if home is None else f"{home}{text[1:]}"
    return os.path.expanduser(text) if text.startswith("~") else text


def _cache_root(environ: Mapping[str, str]) -> Path:
    named = environ.get("CETOOL_CACHE_DIR")
    if named:
        expanded = expand_user(named, environ)
        if not Path(expanded).is_absolute():
            raise StoreError(
                f"CETOOL_CACHE_DIR is {named!r}, which is not an absolute path",
                hint="Environments cannot move with the working directory: write the path from / on.",
            )
        return Path(os.path.normpath(expanded))
    base = _user_dir(environ, "XDG_CACHE_HOME", ".cache", kind="cache")
    if base is None:
        raise StoreError(
            "there is no place for the cache: HOME is not set (as under cron), and this user has no entry with a home "
            "directory in the password database",
            hint="Set HOME, or CETOOL_CACHE_DIR to the absolute path of a directory that is yours.",
        )
    return base


def _user_dir(environ: Mapping[str, str], variable: str, below_home: str, *, kind: str) -> Path | None:
    """``cetool`` in the user's cache, configuration or data directory, as platformdirs has it.

    On Linux it is computed here, from the variables given: platformdirs looks at the process's own.
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
    if Path(xdg).is_absolute():  # the XDG specification has relative ones ignored
        return Path(os.path.normpath(xdg), "cetool")
    home = home_directory(environ)
    return None if home is None else home / below_home / "cetool"


# --- private directories --------------------------------------------------------------------------------------------


def ensure_private_dir(path: Path, *, trust: bool, writable: bool = True) -> None:
    """Make the directory (0700, missing parents too), or see that what is there is this user's alone.

    One that is only to be read (``writable`` is false) is not made, and need not be writable.

    Raises StoreError, with the reason, where it belongs to someone else, where its group or others can write to it,
    where it is a symbolic link, or where somebody else could exchange it or a directory or link on the way to it; and
    where it cannot be made or written to. ``trust`` leaves out all checks on who else has a hand in it, and makes a new
    directory as open as the shared one that it is made in. On Windows, where the mode says nothing, nothing is checked:
    a profile's directories are private there.
    """
    checked = not trust and sys.platform != "win32"
    if checked:
        _check(path)
    if not writable:
        return
    make_private_dirs(path, shared=trust)
    if checked:
        _check(path)  # again: until it was made, anybody who could make it might have been faster
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoreError(f"the directory {path} cannot be written to", hint=_CHOOSE)


def make_private_dirs(path: Path, *, shared: bool = False) -> None:
    """Make a directory and its missing parents, each 0700; raises StoreError with the system's reason.

    With ``shared``, one made in a directory that its group or others can write to (``/tmp`` and other sticky ones do
    not count) gets that directory's mode.
    """
    missing = []
    directory = path
    while not os.path.lexists(directory) and directory != directory.parent:
        missing.append(directory)
        directory = directory.parent
    try:
        for directory in reversed(missing):
            _make(directory, shared=shared)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space, or set CETOOL_CACHE_DIR to a directory on another disk." if full else _CHOOSE
        raise StoreError(f"the directory {path} cannot be made: {directory}: {reason}", hint=hint) from None
    if not path.is_dir():
        raise StoreError(f"{path} is in the way: it is not a directory", hint=f"Move it away. {_CHOOSE}")


def _make(directory: Path, *, shared: bool) -> None:
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        return  # another process was faster
    mode = directory.parent.stat().st_mode
    if shared and mode & _OPEN_TO_OTHERS and not mode & stat.S_ISVTX:
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | mode & 0o077)


def _check(path: Path) -> None:
    """Raise StoreError where another user has a hand in the directory or in the way to it; a missing one is fine."""
    try:
        way = list(_way(path))
        is_link = path.is_symlink()
    except OSError as error:
        raise StoreError(f"the directory {path} cannot be used: {error.strerror}", hint=_CHOOSE) from None
    if is_link:
        raise StoreError(
            f"{path} is a symbolic link, where a directory is expected",
            hint=f"Name the directory itself: CETOOL_CACHE_DIR={os.path.realpath(path)} (or env-dir).",
        )
    end = os.path.realpath(path)
    for place, info in way:
        if place == end:
            _check_own(path, info)
        else:
            _check_passed(path, place, info)


def _check_own(path: Path, info: os.stat_result) -> None:
    if info.st_uid != _me():
        raise StoreError(
            f"the directory {path} belongs to {_user_name(info.st_uid)}: what lies there would run as you", hint=_TRUST
        )
    if info.st_mode & _OPEN_TO_OTHERS:
        who = "everybody" if info.st_mode & stat.S_IWOTH else "its group"
        raise StoreError(
            f"the directory {path} can be written to by {who} (mode {stat.S_IMODE(info.st_mode):04o}): "
            "what they put there would run as you",
            hint=f"chmod go-w '{path}' closes it, if nobody had a hand in it so far. {_TRUST}",
        )


def _check_passed(path: Path, place: str, info: os.stat_result) -> None:
    """A directory or link on the way: whoever can write to the one or owns the other can exchange what follows."""
    if info.st_uid not in (0, _me()) and not _is_unmapped(info.st_uid):
        raise StoreError(
            f"the directory {path} is not safe: {place}, on the way to it, belongs to {_user_name(info.st_uid)}, who "
            "could put another one in its place",
            hint=_TRUST,
        )
    sticky = info.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(info.st_mode) or sticky or not info.st_mode & _OPEN_TO_OTHERS:
        return
    if info.st_mode & stat.S_IWOTH or not _is_private_group(info):
        who = "everybody" if info.st_mode & stat.S_IWOTH else "its group"
        raise StoreError(
            f"the directory {path} is not safe: {place}, on the way to it, can be written to by {who} "
            f"(mode {stat.S_IMODE(info.st_mode):04o}), who could put another one in its place",
            hint=f"chmod go-w '{place}' closes it. {_TRUST}",
        )


def _way(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every directory and symbolic link passed on the way to a path, what it ends at last; stops at what is missing.

    ``os.path.realpath`` would not tell of the links, each of which could be another user's.
    """
    current = "/"
    pending = os.path.abspath(path).split("/")[::-1]
    links = 0
    yield current, os.lstat(current)
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        step = os.path.join(current, part)
        try:
            info = os.lstat(step)
        except FileNotFoundError:
            return
        yield step, info
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), step)
            target = str(Path(step).readlink())
            current = "/" if target.startswith("/") else current
            pending += target.split("/")[::-1]
        else:
            current = step


def _me() -> int:
    if sys.platform == "win32":
        return -1
    return os.geteuid()


def _user_name(uid: int) -> str:
    if sys.platform != "win32":
        import pwd

        try:
            return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
        except KeyError:
            pass
    return f"another user ({uid})"


def _is_private_group(info: os.stat_result) -> bool:
    """Whether nobody but the owner and root is in the directory's group.

    Distributions that give every user a group of their own (Debian, Fedora) make directories 0775 by their umask 002.
    """
    if sys.platform == "win32":
        return True
    import grp
    import pwd

    try:
        group = grp.getgrgid(info.st_gid)
        owner = pwd.getpwuid(info.st_uid)
    except KeyError:
        return False
    own = owner.pw_gid == info.st_gid and group.gr_name == owner.pw_name
    return own and set(group.gr_mem) <= {owner.pw_name, "root"}


def _is_unmapped(uid: int) -> bool:
    """Whether this is how a container without root shows everything that belongs to the world outside, root's too."""
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    except (OSError, ValueError, IndexError):
        return False
    return uid == overflow and mapped < 2**32 - 1
