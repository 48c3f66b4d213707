"""The warm path: from a script's path, or a tool's name, straight to exec, using what a cold run wrote down.

A launch record contains what the cold run found (the environment, the command, the variables to set) and everything
that this depended on: the states of the script and the configuration files, and the values of relevant variables. If
all of it is unchanged, a warm run takes the environment's lock, checks its marker, notes the use, and replaces this
process. Any doubt leads to the cold path, which decides again and rewrites the record; nothing here reports an error.

Nothing here may import more than Python has loaded at its start or has built in: every import is counted, and each
costs a tenth of a millisecond, including the packages of a module. So this package contains everything that a warm run
needs and imports nothing else of cetool; other packages use its functions to do the same in the same way.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os
import sys
import time

from cetool.warm.environ import activated, caller_environ, count_run
from cetool.warm.files import append_note, touch_shared, use_line
from cetool.warm.files import file_state as file_state
from cetool.warm.files import open_own_directory as open_own_directory
from cetool.warm.files import place_state as place_state
from cetool.warm.files import script_state as script_state
from cetool.warm.files import settled_before as settled_before
from cetool.warm.handover import replace_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: cetool's commands: any other first word is a script.
COMMANDS = (
    *("run", "exec", "rerun", "shell", "create", "name", "path", "list", "show", "init", "add", "drop", "remove-dep"),
    *("convert", "check", "lock", "export", "gc", "verify", "remove", "trust", "kernel", "config", "overlay"),
    *("baseline", "info", "help", "tree", "upgrade", "serve", "server", "env", "login", "logout", "servers"),
)
#: First field of every record; the number changes with the format of the rest.
MAGIC = b"cetool launch 4"
END = b"end"
#: The executables that run scripts, recorded if they would use different programs.
CETOOL, CONDA_EXECUTE = b"cetool", b"conda-execute"
#: Whether there is a warm path: not without exec, nor where only platformdirs knows the cache's place.
SUPPORTED = sys.platform not in ("win32", "darwin")
#: Seconds between two checks whether anything can be collected.
COLLECTION_INTERVAL = 3600.0
#: Longer scripts and records are not read here.
MOST_BYTES = 1 << 20

# Prefixes of the variables that decide which environment a script gets, and exceptions from them.
_DECIDING = (b"CETOOL_", b"CONDA", b"MAMBA", b"HOME", b"XDG_CACHE_HOME", b"XDG_CONFIG_HOME")
_IDLE = (
    b"CONDA_DEFAULT_ENV",
    b"CONDA_SHLVL",
    b"CONDA_PROMPT_MODIFIER",
    b"CONDA_PYTHON_EXE",
    b"CONDA_PREFIX_",
    b"CONDA_STACKED_",
    b"CONDA_BACKUP_",
    b"CETOOL_TRACEBACK",
    b"CETOOL_SERVER_TOKEN",
    b"CETOOL_RUN_RECURSION_DEPTH",
)


def context_of(about: str) -> bytes:
    """Return what a record is about, with the variables that decide the environment.

    ``about`` is a script's absolute path, or a :func:`tool_key`, which is not a path.
    """
    return b"\1".join([os.fsencode(about), *deciding_variables()])


def tool_key(tool: str, specs: "Sequence[str]", channels: "Sequence[str]", extra: "Sequence[str]" = ()) -> str:
    """Return a tool's key: all words of its command line that decide which program it is."""
    return f"exec {[tool, list(specs), list(channels), list(extra)]!a}"


def deciding_variables() -> list[bytes]:
    """Return the variables (``NAME=value``, sorted) that decide which environment a script gets."""
    import posix

    deciding = [
        name + b"=" + value
        for name, value in posix.environ.items()
        if name.startswith(_DECIDING) and not name.startswith(_IDLE)
    ]
    deciding.sort()
    return deciding


def record_name(context: bytes) -> str:
    """Return the file name of a context's record; contexts with the same name would overwrite each other's."""
    # a good hash, slow for long texts, but without an import
    return "%032x" % (int.from_bytes(context + b"\1", "little") % 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF61)


def launch_directory(environ: dict[bytes, bytes]) -> bytes | None:
    """Return the directory of the records, as :func:`cetool.settings.paths.resolve_paths` would.

    None if only that function can find it.
    """
    named = environ.get(b"CETOOL_CACHE_DIR")
    if named:
        return named + b"/launch" if named.startswith(b"/") else None
    base = environ.get(b"XDG_CACHE_HOME")
    if base and base.startswith(b"/"):
        return base + b"/cetool/launch"
    home = environ.get(b"HOME")
    return home + b"/.cache/cetool/launch" if home and home.startswith(b"/") else None


def target_of(script: str) -> bytes:
    """Return the file that a script's path leads to: its suffix may decide the program, its lock may be next to it."""
    return os.fsencode(os.path.realpath(script))


def variable(name: bytes) -> bytes:
    """Return a variable's value after ``=``; empty if it is not set, which differs from an empty value."""
    import posix

    value = posix.environ.get(name)
    return b"" if value is None else b"=" + value


def absolute(target: str) -> str:
    """Return a script's absolute path, otherwise unchanged. Raises OSError if there is no working directory."""
    return target if os.path.isabs(target) else os.path.join(os.getcwd(), target)


def launch(target: str, arguments: list[str], original: bool = False) -> None:
    """Become the script if everything is as recorded; otherwise return without having changed anything."""
    if not SUPPORTED:
        return
    try:
        _launch(absolute(target), target, arguments, original)
    except (OSError, ValueError, IndexError):
        return


def launch_tool(words: list[str]) -> None:
    """Like :func:`launch`, for the tool of a command line of ``cetool exec`` or ``cex``.

    The only options allowed before the tool are those in its key, and ``--quiet``.
    """
    if not SUPPORTED:
        return
    given: dict[str, list[str]] = {"--spec": [], "--channel": [], "--with": []}
    at = 0
    try:
        while words[at].startswith("-"):
            name, sign, value = ("--channel", "", "") if words[at] == "-c" else words[at].partition("=")
            if words[at] not in ("-q", "--quiet"):
                if name not in given:
                    return
                if not sign:
                    at += 1
                    value = words[at]
                given[name].append(value)
            at += 1
        key = tool_key(words[at], given["--spec"], given["--channel"], given["--with"])
        _launch(key, "", words[at + 1 :], False)
    except (OSError, ValueError, IndexError):
        return


def _launch(about: str, target: str, arguments: list[str], original: bool) -> None:
    """Launch by the record of ``about``; ``target`` is the script as given, empty for a tool."""
    import posix

    directory = launch_directory(posix.environ)
    if directory is None:
        return
    state = script_state(os.stat(about)) if target else b""
    context = context_of(about)
    folder = open_own_directory(directory)
    if folder is None:
        return
    name = record_name(context).encode()
    path = directory + b"/" + name
    try:
        record = read_record(name, folder)
    finally:
        os.close(folder)
    if record is None or record.context != context or record.caller == (CETOOL if original else CONDA_EXECUTE):
        return
    if record.script_state != state and not (target and _same_declaration(about, path, record)):
        return
    if not _holds(record):
        return
    descriptors: list[int] = []
    try:
        for lock in (record.lock, record.cache_lock) if record.cache_lock else (record.lock,):
            descriptors.append(_lock(lock))
        if file_state(record.marker) != record.marker_state or not os.access(record.argv[0], os.X_OK):
            return
        if record.cache:
            _touch(record.cache)
        touch_shared(descriptors[0], record.lock)
        _note(record)
        _become(record, target, arguments, descriptors)
    finally:  # reached only if it did not become the program
        for descriptor in descriptors:
            os.close(descriptor)


class Record:
    """A launch record: its fields in the order of the file, each of them bytes or a list of bytes.

    ``noted`` is the name in the usage log. A tool has no ``script_state``. ``caller`` is empty if :data:`CETOOL` and
    :data:`CONDA_EXECUTE` run the script in the same way. ``places`` are pairs of a directory on the way to the
    environment or to cetool's files and its :func:`place_state`. ``paths`` are values of PATH with the same result,
    empty if PATH does not matter. ``watched`` are pairs of a path and its :func:`file_state`, ``expected`` pairs of a
    name and its :func:`variable`.
    """

    __slots__ = (
        *("context", "noted", "script_state", "lock", "marker", "marker_state", "prefix", "takes_script"),
        *("cache", "cache_lock", "spool", "stamp", "leads_to", "head", "block", "caller"),
        *("argv", "path", "variables", "scripts", "places", "paths", "watched", "expected"),
    )
    context: bytes
    noted: bytes
    script_state: bytes
    lock: bytes
    marker: bytes
    marker_state: bytes
    prefix: bytes
    takes_script: bytes
    cache: bytes
    cache_lock: bytes
    spool: bytes
    stamp: bytes
    leads_to: bytes
    head: bytes
    block: bytes
    caller: bytes
    argv: list[bytes]
    path: list[bytes]
    variables: list[bytes]
    scripts: list[bytes]
    places: list[bytes]
    paths: list[bytes]
    watched: list[bytes]
    expected: list[bytes]


_SINGLE = Record.__slots__[:16]
_LISTS = Record.__slots__[16:]


def pack_record(record: Record) -> bytes:
    """Return a record's file: NUL-terminated fields, lists preceded by their length, the number of fields."""
    fields = [MAGIC, *(getattr(record, name) for name in _SINGLE)]
    for name in _LISTS:
        items = getattr(record, name)
        fields += [str(len(items)).encode(), *items]
    return b"\0".join([*fields, b"%b%d" % (END, len(fields))])


def read_record(path: bytes, folder: int | None = None) -> Record | None:
    """Return the record in a file of an open directory; None unless this user wrote it, complete, in this format."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    try:
        info = os.fstat(descriptor)
        # do not trust a file that another user could have written or linked here
        private = info.st_uid == os.geteuid() and info.st_mode & 0o170022 == 0o100000 and info.st_nlink == 1
        if not private or info.st_size > MOST_BYTES:
            return None
        data = os.read(descriptor, info.st_size + 1)
    finally:
        os.close(descriptor)
    fields = data.split(b"\0")
    if fields[0] != MAGIC or fields[-1] != b"%b%d" % (END, len(fields) - 1):
        return None
    record = Record()
    for at, name in enumerate(_SINGLE, 1):
        setattr(record, name, fields[at])
    at = 1 + len(_SINGLE)
    for name in _LISTS:
        end = at + 1 + int(fields[at])
        setattr(record, name, fields[at + 1 : end])
        at = end
    return record if at == len(fields) - 1 else None


def _holds(record: Record) -> bool:
    """Return whether everything is unchanged, and no collection is due."""
    watched, expected = record.watched, record.expected
    if record.paths and variable(b"PATH") not in record.paths:
        return False
    for at in range(0, len(expected), 2):
        if variable(expected[at]) != expected[at + 1]:
            return False
    for at in range(0, len(watched), 2):
        if file_state(watched[at]) != watched[at + 1]:
            return False
    places = record.places
    for at in range(0, len(places), 2):
        if place_state(places[at]) != places[at + 1]:
            return False
    # a stamp in the future means that the clock was set back: the cold path handles that
    return not record.stamp or 0 <= time.time() - os.stat(record.stamp).st_mtime < COLLECTION_INTERVAL


def _lock(path: bytes) -> int:
    """Return a shared lock as an open descriptor. Raises OSError if it is not free."""
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if descriptor < 3:  # the caller closed a standard stream: the script must not find a lock instead
            low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        info = os.fstat(descriptor)
        if info.st_mode & 0o170000 == 0o100000 and info.st_nlink == 1 and os.path.samestat(info, os.stat(path)):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise OSError("the file was replaced")


def _touch(directory: bytes) -> None:
    """Set a directory's time to now, as its last use. Raises OSError if it is gone."""
    try:
        os.utime(directory)
    except PermissionError:  # then it cannot be removed either
        return


def _note(record: Record) -> None:
    """Note the use; a read-only cache does not prevent a run."""
    name = os.path.basename(record.prefix)
    try:
        append_note(os.fsdecode(record.spool), use_line(os.fsdecode(name), os.fsdecode(record.noted)))
    except OSError:
        return


def _become(record: Record, target: str, arguments: list[str], descriptors: list[int]) -> None:
    decode = os.fsdecode
    pairs = [decode(item) for item in record.variables]
    environ, steps = activated(
        decode(record.prefix),
        tuple(decode(item) for item in record.path),
        tuple(zip(pairs[::2], pairs[1::2])),  # noqa: B905 - 3.9's zip has no strict
        tuple(decode(item) for item in record.scripts),
        caller_environ(),
    )
    if not count_run(environ):
        return
    argv = [decode(item) for item in record.argv]
    if record.takes_script:
        # a program would take a name that starts with a dash for an option
        argv.append(f"./{target}" if target.startswith("-") else target)
    replace_process(argv[0], [*argv, *arguments], environ, steps, descriptors)


def _same_declaration(script: str, path: bytes, record: Record) -> bool:
    """Return whether a changed script still declares the same; then update its state in the record."""
    if not record.block or target_of(script) != record.leads_to:
        return False
    from cetool.warm.declared import block_in, write_record  # only for changed scripts

    descriptor = os.open(script, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        now = time.time_ns()
        info = os.fstat(descriptor)
        if info.st_mode & 0o170000 != 0o100000 or info.st_size > MOST_BYTES:
            return False
        data = os.read(descriptor, info.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) != info.st_size or not block_in(data, record.head, record.block):
        return False
    if settled_before(info, now):
        record.script_state = script_state(info)
        write_record(path, pack_record(record))
    return True
