"""The warm run: from a script's path, or a tool's name, straight to exec, by what the cold run wrote down about it.

A launch record says what the cold run found out (the environment, the command, the variables to set) and all that
this depended on: the script's own state, that of the configuration files, the values of the variables that matter.
Where each still holds, the environment's lock is taken, its marker looked at, the use noted, and this process replaced.
Any doubt leads to the cold path, which finds out anew and writes the record anew; nothing here reports an error.

Nothing here may import more than the interpreter has loaded at its start, or keeps in itself: every import is counted,
and each costs a tenth of a millisecond, packages on the way to a module included. So all that a warm run takes is in
this room, which imports nothing else of cetool's; the other rooms take from it what they do in the same way.
"""

# Annotations are evaluated, or quoted, where `from __future__ import annotations` would be an import more.
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

#: cetool's commands: a first word that is none of them is a script.
COMMANDS = (
    *("run", "exec", "rerun", "shell", "create", "name", "path", "list", "show", "init", "add", "drop", "remove-dep"),
    *("convert", "check", "lock", "export", "gc", "verify", "remove", "trust", "kernel", "config", "overlay"),
    *("baseline", "info", "help", "tree", "upgrade"),
)
#: The first field of every record; another number for each change of what follows.
MAGIC = b"cetool launch 4"
END = b"end"
#: Who runs a script, where another one of them would take another program.
CETOOL, CONDA_EXECUTE = b"cetool", b"conda-execute"
#: Where there is a warm path: not where there is no exec, nor where only platformdirs knows the cache's place.
SUPPORTED = sys.platform not in ("win32", "darwin")
#: Seconds between two looks at whether something is to be collected.
COLLECTION_INTERVAL = 3600.0
#: A script, or a record, longer than this is not worth reading here.
MOST_BYTES = 1 << 20

# Variables that decide which environment a script gets, by their beginnings; and those that begin so and do not.
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
    b"CETOOL_RUN_RECURSION_DEPTH",
)


def context_of(about: str) -> bytes:
    """What a record is about, and the variables that decide which environment that gets.

    ``about`` is a script's absolute path, or a :func:`tool_key`, which is none.
    """
    return b"\1".join([os.fsencode(about), *deciding_variables()])


def tool_key(tool: str, specs: "Sequence[str]", channels: "Sequence[str]", extra: "Sequence[str]" = ()) -> str:
    """What a tool is called by here: all the words of its command line that decide which program that is."""
    return f"exec {[tool, list(specs), list(channels), list(extra)]!a}"


def deciding_variables() -> list[bytes]:
    """Names and values (``NAME=value``, sorted) of the variables that decide which environment a script gets."""
    import posix

    deciding = [
        name + b"=" + value
        for name, value in posix.environ.items()
        if name.startswith(_DECIDING) and not name.startswith(_IDLE)
    ]
    deciding.sort()
    return deciding


def record_name(context: bytes) -> str:
    """The file name of a context's record; two contexts of one name would take turns at being written."""
    # a good hash, if a slow one for long texts, without the import of one
    return "%032x" % (int.from_bytes(context + b"\1", "little") % 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF61)


def launch_directory(environ: dict[bytes, bytes]) -> bytes | None:
    """Where the records are, found as :func:`cetool.settings.paths.resolve_paths` finds it; None where only that can
    tell."""
    named = environ.get(b"CETOOL_CACHE_DIR")
    if named:
        return named + b"/launch" if named.startswith(b"/") else None
    base = environ.get(b"XDG_CACHE_HOME")
    if base and base.startswith(b"/"):
        return base + b"/cetool/launch"
    home = environ.get(b"HOME")
    return home + b"/.cache/cetool/launch" if home and home.startswith(b"/") else None


def target_of(script: str) -> bytes:
    """The file that a script's path leads to: its suffix may decide what runs it, and its lock may be next to it."""
    return os.fsencode(os.path.realpath(script))


def variable(name: bytes) -> bytes:
    """A variable's value behind ``=``; nothing where it is not set, which is not the same as empty."""
    import posix

    value = posix.environ.get(name)
    return b"" if value is None else b"=" + value


def absolute(target: str) -> str:
    """The absolute path of a script, nothing else changed in it. Raises OSError where there is no working directory."""
    return target if os.path.isabs(target) else os.path.join(os.getcwd(), target)


def launch(target: str, arguments: list[str], original: bool = False) -> None:
    """Become the script if everything is as its record says; return, with nothing changed, if anything is not."""
    if not SUPPORTED:
        return
    try:
        _launch(absolute(target), target, arguments, original)
    except (OSError, ValueError, IndexError):
        return


def launch_tool(words: list[str]) -> None:
    """As :func:`launch`, for the tool of a command line of ``cetool exec`` or ``cex``.

    Before the tool only options are known here that stand for something in its key, and the one that says less.
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
    """``about`` is what the record is called by; ``target`` the script as it was given, empty for a tool."""
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
    finally:  # only where something was in the way
        for descriptor in descriptors:
            os.close(descriptor)


class Record:
    """A launch record: its fields in their order in the file, each of them bytes or a list of bytes.

    ``noted`` is what the usage log calls the script or the tool, which has no ``script_state``; ``caller`` is empty
    where :data:`CETOOL` and :data:`CONDA_EXECUTE` run the script alike; ``places`` are pairs of a directory on the way
    to the environment or to cetool's own things and its :func:`place_state`; ``paths`` are values of PATH under which
    all the rest was found, none where PATH does not matter; ``watched`` are pairs of a path and its
    :func:`file_state`, ``expected`` pairs of a name and its :func:`variable`.
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
    """The record as it is in a file: fields that end in NUL, lists led by their length, then the number of fields."""
    fields = [MAGIC, *(getattr(record, name) for name in _SINGLE)]
    for name in _LISTS:
        items = getattr(record, name)
        fields += [str(len(items)).encode(), *items]
    return b"\0".join([*fields, b"%b%d" % (END, len(fields))])


def read_record(path: bytes, folder: int | None = None) -> Record | None:
    """The record in a file of an open folder; None where there is none that this user wrote, whole, in this form."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    try:
        info = os.fstat(descriptor)
        # what others could have written, or linked here, is not obeyed
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
    """Whether the configuration is as it was, and nothing is to be collected first."""
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
    # a stamp of the future is a sign that the clock was set back: the cold path sees to it
    return not record.stamp or 0 <= time.time() - os.stat(record.stamp).st_mtime < COLLECTION_INTERVAL


def _lock(path: bytes) -> int:
    """A lock, shared, as an open descriptor. Raises OSError where it cannot be had at once."""
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if descriptor < 3:  # the caller closed a standard stream: the script is not to find a lock in its place
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
    raise OSError("another file has its name by now")


def _touch(directory: bytes) -> None:
    """Note in a directory's time that it is used. Raises OSError where it is gone."""
    try:
        os.utime(directory)
    except PermissionError:  # nor may it be removed then
        return


def _note(record: Record) -> None:
    """Note the use; a cache that cannot be written to is no reason not to run."""
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
        tuple(zip(pairs[::2], pairs[1::2])),  # noqa: B905 - 3.9's zip serves
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
    """Whether a script that was changed still declares the same; the record then tells its new state."""
    if not record.block or target_of(script) != record.leads_to:
        return False
    from cetool.warm.declared import block_in, write_record  # for scripts that were changed alone

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
