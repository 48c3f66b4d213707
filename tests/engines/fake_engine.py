"""A fake of conda, mamba and micromamba for machines without them, called as ``fake_engine.py NAME ARGS...``.

It takes no option that the real one does not take or that cetool is not to use, prints what the real one prints (see
``tests/transcripts``), and builds the prefix for real, with py-rattler. It also has the real ones' bad habits: conda
breaks where two fill one package cache, mamba registers every environment, both add pip to a python. More of them are
asked for by ``FAKE_ENGINE_FAULT``:

| fault | what happens |
| --- | --- |
| ``transcript:NAME`` | prints what was recorded under that name and ends as that run did |
| ``signal-after`` | dies of SIGSEGV after the environment is complete |
| ``no-env`` | prints everything, exits 0, and has made nothing but an empty ``conda-meta/history`` |
| ``half`` | like ``no-env``, but most packages' files are gone after linking |
| ``late`` | the same, a moment after it has printed everything |
| ``hang`` | prints its first lines, starts a child, and both stand still |
| ``stubborn`` | the same, deaf to SIGINT and SIGTERM |
| ``hang-after-registering`` | mamba: stands still after it has registered the prefix |

``FAKE_ENGINE_LOG`` names a file to which each creation appends a line of JSON: arguments, variables, process number;
``FAKE_ENGINE_KEEP`` a directory for copies of the files that CONDARC and NETRC name.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import rattler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TRANSCRIPTS = Path(__file__).resolve().parents[1] / "transcripts"
VERSIONS = {"conda": "conda 26.7.1", "mamba": "2.8.1", "micromamba": "2.8.1"}
_VALUED = {
    "conda": {"--prefix": "prefix", "-p": "prefix", "--channel": "channel", "-c": "channel", "--file": "file"},
    "mamba": {"-p": "prefix", "--prefix": "prefix", "-c": "channel", "--channel": "channel", "--file": "file"},
}
_FLAGS = {
    "conda": {"--yes", "-y", "--override-channels", "--offline", "--no-default-packages"},
    "mamba": {"-y", "--yes", "--override-channels", "--offline"},
}


@dataclass
class Arguments:
    """A parsed command line."""

    prefix: Path | None = None
    channels: list[str] = field(default_factory=list)
    specs: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    explicit: list[str] | None = None


def say(text: str, *, end: str = "\n") -> None:
    """Print and flush, as real engines do for each stage."""
    print(text, end=end, flush=True)


def fail(text: str, status: int = 1) -> NoReturn:
    """Exit with a message on standard error."""
    print(text, file=sys.stderr, flush=True)
    sys.exit(status)


def family(name: str) -> str:
    """Return ``conda`` or ``mamba``: mamba and micromamba are one program."""
    return "conda" if name == "conda" else "mamba"


def parse(name: str, words: list[str]) -> Arguments:
    """Parse a command line, with the error messages of real engines."""
    found = Arguments()
    rest = iter(words)
    for word in rest:
        option = _VALUED[family(name)].get(word)
        if option == "prefix":
            found.prefix = Path(next(rest))
        elif option == "channel":
            found.channels.append(next(rest))
        elif option == "file":
            found.files.append(Path(next(rest)))
        elif word in _FLAGS[family(name)]:
            found.flags.add(word)
        elif word.startswith("-"):
            if name == "conda":
                usage = "usage: conda [-h] [-v] [--no-plugins] [-V] COMMAND ...\n"
                fail(f"{usage}conda: error: unrecognized arguments: {word}", 2)
            fail(f"The following argument was not expected: {word}\nRun with --help for more information.", 109)
        else:
            found.specs.append(word)
    for word in words:
        if re.search(r"://[^/]*@|/t/", word):
            fail(f"credentials on the command line: {word}", 99)
    if not found.flags & {"-y", "--yes"}:
        fail("it would ask for a confirmation", 98)
    if found.prefix is None or not found.prefix.is_absolute():
        fail("it needs an absolute prefix", 97)
    return found


def read_files(name: str, arguments: Arguments) -> None:
    """Read spec files and environment files, which only the user may be able to read."""
    for path in arguments.files:
        if path.stat().st_mode & 0o077:
            fail(f"{path} can be read by others", 96)
        text = path.read_text()
        if "@EXPLICIT" in text.splitlines():
            arguments.explicit = text.splitlines()
        elif path.suffix == ".txt":
            arguments.specs += text.split("\n")[:-1]
        elif family(name) == "mamba":
            document = json.loads(text)
            arguments.channels += document["channels"]
            arguments.specs += document["dependencies"]
        else:
            fail("conda takes the channels of no file under --override-channels", 95)


def with_credentials(channel: str) -> str:
    """Add credentials to a channel's URL from ``custom_channels`` in the file that CONDARC names, as conda does."""
    condarc = os.environ.get("CONDARC")
    if not condarc:
        return channel
    from ruamel.yaml import YAML

    path = Path(condarc)
    if path.stat().st_mode & 0o077:
        fail(f"{path} can be read by others", 96)
    for name, location in (YAML(typ="safe").load(path.read_text()).get("custom_channels") or {}).items():
        parts = urlsplit(location)
        bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{re.sub('/t/[^/]*', '', parts.path)}/{name}"
        if channel == bare:
            return f"{location}/{name}"
    return channel


def aliased(channel: str) -> str:
    """Return the URL of a channel's name, below the ``channel_alias`` of the user's ``.condarc``."""
    condarc = Path(os.environ["HOME"], ".condarc")
    if "://" in channel or not condarc.exists():
        return channel
    from ruamel.yaml import YAML

    alias = (YAML(typ="safe").load(condarc.read_text()) or {}).get("channel_alias", "https://conda.anaconda.org")
    return f"{alias}/{channel}"


def replay(name: str, which: str, arguments: Arguments) -> NoReturn:
    """Print recorded output with the paths of this run, and end as recorded."""
    stem = TRANSCRIPTS / family(name).replace("mamba", "micromamba") / which
    command = stem.with_name(f"{which}.cmd").read_text().split()
    recorded = command[command.index("-c") + 1] if "-c" in command else None
    for suffix, stream in ((".stdout", sys.stdout), (".stderr", sys.stderr)):
        path = stem.with_name(which + suffix)
        if path.exists():
            text = path.read_text().replace("/home/user/work/p", str(arguments.prefix))
            if recorded and arguments.channels:
                text = text.replace(recorded, arguments.channels[0].rstrip("/"))
            print(text, end="", file=stream, flush=True)
    status = int(stem.with_name(f"{which}.rc").read_text())
    if status < 0:
        die(-status)
    sys.exit(status)


def die(signum: int) -> NoReturn:
    """Die from a signal without a core dump."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    raise AssertionError


def stand_still(*, deaf: bool) -> NoReturn:
    """Wait forever, with a child process that does the same."""
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    if log := os.environ.get("FAKE_ENGINE_LOG"):
        append(Path(log), json.dumps({"child": child.pid}))
    while True:
        time.sleep(1000)


def append(path: Path, line: str) -> None:
    """Append a line in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def keep_files() -> None:
    """Copy the files that variables name, so that tests can read them after the run."""
    if directory := os.environ.get("FAKE_ENGINE_KEEP"):
        Path(directory).mkdir()
        for variable in ("CONDARC", "NETRC"):
            if path := os.environ.get(variable):
                shutil.copy(path, Path(directory, variable))


def package_cache() -> Path:
    """Return the package cache."""
    given = os.environ.get("CONDA_PKGS_DIRS")
    cache = Path(given) if given else Path(os.environ["HOME"], ".fake-engine", "pkgs")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def solve(name: str, arguments: Arguments, channels: list[str]) -> list[rattler.RepoDataRecord]:
    """Solve, or fail with the message of a real engine. Exact packages are not solved."""
    if arguments.explicit is not None:
        from engines.explicit import records_of

        return records_of(name, arguments.explicit, package_cache())
    pip = any(re.match(r"(?:.*::)?python(?![\w.-])", spec) for spec in arguments.specs)
    gateway = rattler.Gateway(cache_dir=package_cache() / "repodata")
    virtual = rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env())
    specs = [*arguments.specs, *(["pip"] if pip else [])]
    platforms = [rattler.Subdir(current_subdir()), rattler.Subdir("noarch")]

    async def run() -> list[rattler.RepoDataRecord]:
        return await rattler.solve(
            sources=list(map(aliased, channels)),
            specs=specs,
            gateway=gateway,
            platforms=platforms,
            virtual_packages=virtual,
        )

    try:
        return asyncio.run(run())
    except Exception as error:
        unsolved(name, str(error), arguments)


def current_subdir() -> str:
    """Return the platform's subdir."""
    from support.interpreter import current_subdir as subdir

    return subdir()


def unsolved(name: str, reason: str, arguments: Arguments) -> NoReturn:
    """Fail as a real engine does without a solution."""
    if "Cannot solve" not in reason and "No candidates" not in reason:
        replay(name, "h04-auth" if "401" in reason else "06-channel-file-nope", arguments)
    missing = re.findall(r"No candidates were found for (\S+)", reason)
    if name == "conda":
        say("failed")
        if missing:
            listed = "\n".join(f"  - {spec}" for spec in missing)
            searched = "\n".join(f"  - {channel}" for channel in arguments.channels)
            fail(
                "\nPackagesNotFoundInChannelsError: The following packages are not available from current channels:"
                f"\n\n{listed}\n\nCurrent channels:\n\n{searched}\n\nTo search for alternate channels that may provide "
                "the conda package you're\nlooking for, navigate to\n\n    https://anaconda.org\n\n"
                "and use the search bar at the top of the page.\n\n"
            )
        fail(f"\nRattlerUnsatisfiableError: {reason}\n\n\n")
    print("error    libmamba Could not solve for environment specs", file=sys.stderr)
    if missing:
        print("    The following package could not be installed", file=sys.stderr)
        print(f"    └─ {missing[0]} =* * does not exist (perhaps a typo or a missing channel).", file=sys.stderr)
    else:
        print("    " + reason.partition("because of: ")[2].replace("\n", "\n    "), file=sys.stderr)
    fail("critical libmamba Could not solve for environment specs")


def link(arguments: Arguments, records: list[rattler.RepoDataRecord]) -> None:
    """Download and link packages."""
    assert arguments.prefix is not None
    prefix = arguments.prefix

    async def run() -> None:
        await rattler.install(
            records=records,
            target_prefix=prefix,
            cache_dir=package_cache(),
            show_progress=False,
            execute_link_scripts=True,
        )

    asyncio.run(run())
    for record in records:
        keep_archive(record)


def keep_archive(record: rattler.RepoDataRecord) -> None:
    """Keep archives next to unpacked packages, as real engines do."""
    import hashlib

    from engines.explicit import fetch

    path = package_cache() / record.file_name
    wanted = record.sha256
    if not path.exists() or (wanted and hashlib.sha256(path.read_bytes()).digest() != wanted):
        fetch(record.url, path)


class FillingCache:
    """Fail if another process fills the same package cache: conda takes no lock, so archives would break."""

    def __init__(self) -> None:
        self._file = (package_cache() / "being-filled").open("a")

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed process does not hold it
        except BlockingIOError:
            fail(
                "\nInvalidArchiveError('Error with archive "
                f"{package_cache()}/hello-bin-1.0-0.conda.  You probably need to delete and re-download')\n"
            )
        time.sleep(0.3)  # long enough to overlap with another

    def __exit__(self, *_: object) -> None:
        self._file.close()


def conda_create(arguments: Arguments, fault: str) -> None:
    """Imitate ``conda create``."""
    if "--override-channels" in arguments.flags and not arguments.channels:
        fail("\nArgumentError: At least one -c / --channel flag must be supplied when using --override-channels.\n", 2)
    channels = list(map(with_credentials, arguments.channels))
    if os.environ.get("CONDA_NUMBER_CHANNEL_NOTICES") != "0":
        say("Retrieving notices: ...working... done")
    for channel in arguments.channels:
        say(f"Channel: {channel}")
    say(f"Platform: {current_subdir()}\nTarget prefix: {arguments.prefix}")
    if arguments.explicit is None:
        say("Collecting package metadata (repodata.json): ...working... ", end="")
    if fault in ("hang", "stubborn"):
        stand_still(deaf=fault == "stubborn")
    if arguments.explicit is None:
        say("done\nSolving environment: ...working... ", end="")
    with FillingCache():
        records = solve("conda", arguments, channels)
        say("done" if arguments.explicit is None else "")
        say(f"\n## Package Plan ##\n\n  environment location: {arguments.prefix}\n\n")
        say("\nThe following NEW packages will be INSTALLED:\n")
        for record in records:
            text = f"{record.name.normalized:<18} channel/{record.subdir}::{record.name.normalized}-{record.version}"
            say(f"  {text}")
        say("\n\n\nDownloading and Extracting Packages: ...working... done")
        say("Preparing transaction: ...working... done\nVerifying transaction: ...working... done")
        say("Executing transaction: ...working... ", end="")
        finish(arguments, records, fault)
    if os.environ.get("CONDA_REGISTER_ENVS", "true").lower() not in ("false", "0", "no"):
        register(arguments)
    say("done\n#\n# To activate this environment, use\n#")


def mamba_create(name: str, arguments: Arguments, fault: str) -> None:
    """Imitate ``micromamba create``."""
    assert arguments.prefix is not None
    if arguments.prefix.exists() and any(arguments.prefix.iterdir()):
        replay(name, "13c-create-nonenv-dir", arguments)
    for channel in arguments.channels:
        say(f"Using Flat Repodata for {channel}/noarch                                      ✔ Starting")
        if fault in ("hang", "stubborn"):
            stand_still(deaf=fault == "stubborn")
        say(f"Using Flat Repodata for {channel}/noarch                                ✔ Done (0.0 sec)")
    if arguments.explicit is None:
        say("\nResolving Environment                                                       ⧖ Starting")
    records = solve(name, arguments, arguments.channels)
    if arguments.explicit is None:
        say("Resolving Environment                                                     ✔ Done (0.0 sec)")
    say(f"\nTransaction\n\n  Prefix: {arguments.prefix}\n\n  Summary:\n\n  Install: {len(records)} packages\n")
    say("  Total download: 22MB\n\n\n\nTransaction starting")
    (arguments.prefix / "conda-meta").mkdir(parents=True, exist_ok=True)
    (arguments.prefix / "conda-meta" / "history").touch()
    for record in records:
        say(f"Linking {record.name.normalized}-{record.version}-{record.build}")
    register(arguments)
    if fault == "hang-after-registering":
        stand_still(deaf=False)
    finish(arguments, records, fault)
    say("\nTransaction finished\n")


def finish(arguments: Arguments, records: list[rattler.RepoDataRecord], fault: str) -> None:
    """Link packages and write the history last, or do what a fault says."""
    assert arguments.prefix is not None
    meta = arguments.prefix / "conda-meta"
    meta.mkdir(parents=True, exist_ok=True)
    if fault == "no-env":
        (meta / "history").touch()
        return
    if records:
        link(arguments, records)
    if fault == "half":
        halve(arguments.prefix)
    (meta / "history").write_text("==> 2026-11-21 03:39:41 <==\n# cmd: create\n# conda version: 26.7.1\n")


def halve(prefix: Path) -> None:
    """Remove linked files but keep the records."""
    for path in prefix.iterdir():
        if path.is_dir() and path.name != "conda-meta":
            shutil.rmtree(path)


def register(arguments: Arguments) -> None:
    """Add the prefix to ``~/.conda/environments.txt`` unless it is in it."""
    registry = Path(os.environ["HOME"], ".conda", "environments.txt")
    registry.parent.mkdir(exist_ok=True)
    if not registry.exists() or str(arguments.prefix) not in registry.read_text(errors="replace").splitlines():
        append(registry, str(arguments.prefix))


def main(name: str, words: list[str]) -> None:
    """Act as the engine of that name."""
    if words == ["--version"]:
        say(os.environ.get("FAKE_ENGINE_VERSION", VERSIONS[name]))
        return
    if not words or words[0] != "create":
        fail("the command is not create", 94)
    arguments = parse(name, words[1:])
    if log := os.environ.get("FAKE_ENGINE_LOG"):
        append(Path(log), json.dumps({"argv": words, "environ": dict(os.environ), "pid": os.getpid(), "engine": name}))
    keep_files()
    read_files(name, arguments)
    if not arguments.channels and name != "conda" and arguments.explicit is None:
        fail("no channel was named", 93)
    fault = os.environ.get("FAKE_ENGINE_FAULT", "")
    if fault.startswith("transcript:"):
        replay(name, fault.partition(":")[2], arguments)
    if name == "conda":
        conda_create(arguments, fault)
    else:
        mamba_create(name, arguments, fault)
    if fault == "late":
        assert arguments.prefix is not None
        time.sleep(0.3)
        halve(arguments.prefix)
    if fault == "signal-after":
        die(signal.SIGSEGV)


def run() -> NoReturn:
    """Run and exit at once: py-rattler's threads may crash an interpreter that exits slowly."""
    status = 0
    try:
        main(sys.argv[1], sys.argv[2:])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
