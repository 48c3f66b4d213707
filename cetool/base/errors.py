"""Define the errors that a user can meet: a stable code, a message, the object, the place, a hint, an exit status.

Everything that cetool refuses or fails at is a :class:`CetoolError`; ``cli.failure`` prints it as one paragraph on
standard error, and cetool exits with its status. Any other exception that escapes is a bug. Programs tell errors apart
by ``code`` (:data:`CODES`); messages may change at any time.
"""

from __future__ import annotations

import errno
from typing import Any, TypeVar

from cetool.base.values import Value

#: The exit status if cetool itself fails, distinct from a script's, as with env(1) and timeout(1).
EXIT_FAILURE = 125
#: The program or script was found, but cannot be executed.
EXIT_NOT_EXECUTABLE = 126
#: The program or script was not found.
EXIT_NOT_FOUND = 127
#: The command line is wrong.
EXIT_USAGE = 2

#: What each code means. Removing a code, or changing its meaning, is a breaking change.
CODES = {
    # the command line and settings
    "usage": "The command line is wrong or asks for something impossible.",
    "value-invalid": "A duration, size or date is malformed.",
    "setting-unknown": "No setting or environment variable has that name.",
    "setting-invalid": "A setting, or a file with settings, is invalid.",
    "home-missing": "There is no home directory, and no other directory is configured.",
    "secret-refused": "A password or token would be written or sent where others could read it.",
    "interrupted": "A signal stopped cetool before the script started.",
    "recursion": "A script that cetool runs keeps running cetool.",
    "failed": "Something else failed; the message says what.",
    "defect": "cetool or a library that it uses has a bug: please report it.",
    # the script and what it declares
    "script-not-found": "The script does not exist.",
    "script-not-readable": "The script is a directory or cannot be read.",
    "script-not-text": "The file is empty, too large or not text.",
    "script-changed": "Another process changed the script in the meantime.",
    "url-invalid": "A URL is malformed or does not name a single file.",
    "url-unreachable": "The server of a URL does not answer.",
    "url-unauthorized": "The server of a URL denies access.",
    "url-unusable": "The server of a URL sent an answer that cetool cannot use.",
    "block-missing": "The script declares no environment.",
    "block-ambiguous": "The script declares an environment twice.",
    "block-malformed": "The script's block is malformed.",
    "block-present": "The script already has a block.",
    "block-not-editable": "cetool cannot edit the block in this file.",
    "block-not-convertible": "The other dialect cannot express the block.",
    "key-unknown": "A block has an unknown key.",
    "toml-invalid": "A block or file is not valid TOML.",
    "yaml-invalid": "A block or file is not valid YAML.",
    "notebook-malformed": "A notebook is malformed.",
    "environment-file-malformed": "An environment.yml or a list of match specs is malformed.",
    "match-spec-invalid": "A match spec is malformed.",
    "requirement-invalid": "A PyPI requirement is malformed or not supported.",
    "channel-invalid": "A channel name or URL is invalid.",
    "platform-invalid": "A platform is unknown.",
    "platform-mismatch": "The script, environment or run record is for another platform.",
    "virtual-package-invalid": "The version of a virtual package is invalid.",
    "program-unnamed": "cetool cannot tell which program runs the script.",
    "baseline-invalid": "A baseline is malformed or cannot be used.",
    "baseline-conflict": "The requested packages conflict with the baseline.",
    "consent-refused": "The user did not agree to run the script.",
    "consent-not-found": "cetool remembers no answer for this script.",
    # packages and channels
    "spec-unsatisfiable": "The requested packages conflict.",
    "package-not-found": "No channel has a matching package.",
    "package-not-installed": "The environment does not have the package.",
    "package-damaged": "A package or its extracted files are damaged.",
    "channel-not-found": "There is no channel at this URL or path.",
    "channel-unreachable": "The server of a channel does not answer, or answers with an error.",
    "channel-unauthorized": "A channel denies access.",
    "channel-refused": "conda's configuration does not allow a channel.",
    "channel-malformed": "The metadata of a channel is malformed.",
    "download-failed": "A package could not be downloaded.",
    "digest-mismatch": "The content does not have the expected digest.",
    "offline-missing": "cetool is offline, and a file that it needs is not on this machine.",
    "pypi-not-found": "No index has a matching PyPI package.",
    "pypi-conflict": "PyPI packages and conda packages conflict.",
    "pypi-failed": "The PyPI packages could not be found or installed.",
    "index-unreachable": "The index of PyPI packages does not answer.",
    # engines and installers
    "engine-missing": "The engine is not installed.",
    "engine-not-working": "The engine cannot be started or does not answer.",
    "engine-too-old": "The engine is too old for the request.",
    "engine-failed": "The engine did not create the environment.",
    "engine-stalled": "The engine made no progress for longer than stall-timeout.",
    "memory-exceeded": "The embedded engine, or a build, exceeded its memory limit.",
    "link-script-failed": "A package's post-link script failed.",
    "installer-missing": "uv, or a pip that supports the request, is not installed.",
    "installer-too-old": "uv is too old for the request.",
    "installer-failed": "uv or pip failed.",
    # the cache and environments
    "disk-full": "The disk is full, or the quota is used up.",
    "cache-unusable": "The cache directory cannot be used.",
    "cache-not-writable": "cetool cannot read or write a file or directory of its own.",
    "owner-unsafe": "Another user could have written a file that cetool would use.",
    "file-lock-failed": "A file cannot be locked.",
    "usage-log-unusable": "The usage log cannot be read or written.",
    "environment-not-found": "The environment does not exist.",
    "environment-name-invalid": "The name of an environment on a server is malformed.",
    "environment-gone": "The environment was removed in the meantime, or is incomplete.",
    "name-ambiguous": "An abbreviated name matches several environments or overlays.",
    "environment-in-use": "The environment is in use.",
    "environment-damaged": "The environment is damaged or incomplete.",
    "base-unusable": "The base of an overlay cannot be used.",
    "overlay-not-found": "No overlay has that name.",
    "overlay-malformed": "The recipe of an overlay, or a project in it, is malformed.",
    "overlay-changed": "Another process changed the overlay in the meantime.",
    "overlay-conflict": "The packages conflict with the base.",
    # locks
    "lock-missing": "There is no lock.",
    "lock-stale": "The lock does not match what the script declares.",
    "lock-platform-missing": "The lock does not cover this platform.",
    "lock-malformed": "A lock file is malformed.",
    "lock-unrecognized": "A file is not a lock file of a format that cetool reads.",
    "lock-impossible": "The request cannot be locked.",
    # running and records
    "program-not-found": "The program was not found.",
    "program-not-executable": "The program cannot be executed.",
    "activation-failed": "The environment's activation scripts failed.",
    "entrypoint-failed": "A command in the entrypoint failed.",
    "kernel-failed": "A notebook's kernel did not start.",
    "record-malformed": "A run record is malformed.",
    "record-incomplete": "The run record lacks information that a rerun needs.",
    "write-failed": "A file could not be written.",
    # a server's builds
    "build-canceled": "A user canceled the build.",
    "build-crashed": "The build's process ended without a result.",
    "build-timed-out": "The build took longer than allowed.",
    "build-limit-exceeded": "The build used more processes, output or disk space than allowed.",
    # a server and its clients
    "database-busy": "Another process has been writing to the server's database for too long.",
    "database-damaged": "The server's database is damaged, or is not a database of a server.",
    "database-outdated": "The server's database must be upgraded first.",
    "database-newer": "A newer version of cetool wrote the server's database.",
    "backup-malformed": "A file is not a backup of a server, or is damaged.",
    "build-failed": "A build on a server failed.",
    "server-unknown": "No server is configured, or its key is not known yet.",
    "server-unreachable": "A server does not answer.",
    "server-refused": "A server refused a request.",
    "server-key-changed": "A server signs with another key than the one that `cetool login` stored.",
    "server-untrusted": "A server's answer is not signed by its key, or is about something else.",
    "not-authenticated": "The request needs a token, or its token is unknown, expired or revoked.",
    "not-allowed": "The user or token lacks a right.",
    "not-found": "The server has nothing at this path, or the user may not see it.",
    "method-not-allowed": "The server's path does not support this method.",
    "conflict": "The request contradicts the present state of the server or of a data directory.",
    "precondition-failed": "The object has changed since the client read it.",
    "range-invalid": "The range of a download is outside of the file.",
    "solution-refused": "A solution that a client uploaded has other packages than the server's solve.",
    "request-late": "The body of a request did not arrive in time.",
    "too-large": "A request to a server, or a part of it, is too large.",
    "host-refused": "The request is for another host than the server's.",
    "address-unusable": "The server cannot listen on the address, for example because it is in use.",
    "server-key-unusable": "The server's private key is damaged, or other users can read it.",
    "extra-missing": "Optional packages that the command needs are not installed.",
    "rate-limited": "Too many attempts; the answer says how long to wait.",
    "request-malformed": "A name, role, pattern or other part of a request to the server is malformed.",
}


class Location(Value):
    """A place in a file that a message points at; ``line`` counts from 1, None stands for the whole file."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


_E = TypeVar("_E", bound="CetoolError")
_K = TypeVar("_K", bound="CetoolError")


class CetoolError(Exception):
    """A failure that the user can understand and fix.

    ``message`` says what is wrong, ``about`` is the object (a package, a channel, a path, a setting), ``where`` the
    place, ``details`` are lines that explain it (a solver's tree), ``hint`` says what to do, ``log`` is the file with
    the complete output of a program. Code compares the class or ``code``, never the message; :meth:`but` and
    :meth:`turned_into` copy an error.
    """

    #: A key of :data:`CODES`; a class has a default, an error can have its own.
    code = "failed"
    exit_status = EXIT_FAILURE

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        about: str | None = None,
        where: Location | None = None,
        details: tuple[str, ...] = (),
        hint: str | None = None,
        log: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.about = about
        self.where = where
        self.details = details
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        if self.where is None or self.message.startswith(f"{self.where} "):  # "plain.py declares no environment"
            return self.message
        return f"{self.where}: {self.message}"

    def but(self: _E, **fields: Any) -> _E:
        """Copy the error with other values in some fields."""
        return self.turned_into(type(self), **fields)

    def turned_into(self, kind: type[_K], **fields: Any) -> _K:
        """Copy the error as one of another class; it takes that class's code unless it has one of its own."""
        message = fields.get("message", self.message)
        other = kind.__new__(kind, message)
        other.__dict__.update({**self.__dict__, **fields})
        return other

    def as_json(self) -> dict[str, object]:
        """Return the error in the form that docs/reference/json.md describes."""
        place = None if self.where is None else {"path": self.where.path, "line": self.where.line}
        return {
            "code": self.code,
            "message": self.message,
            "about": self.about,
            "where": place,
            "details": list(self.details),
            "hint": self.hint,
            "status": self.exit_status,
        }


def is_disk_full(error: OSError) -> bool:
    """Return whether the reason is a full disk, or a quota that is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class UsageError(CetoolError):
    """The command line is wrong or asks for something impossible."""

    code = "usage"
    exit_status = EXIT_USAGE


class ScriptNotFoundError(CetoolError):
    """The script does not exist."""

    code = "script-not-found"
    exit_status = EXIT_NOT_FOUND


class ScriptNotReadableError(CetoolError):
    """The script exists, but it is a directory or cannot be read."""

    code = "script-not-readable"
    exit_status = EXIT_NOT_EXECUTABLE


class ProgramNotFoundError(CetoolError):
    """The program that should run the script was not found in the environment or on the PATH."""

    code = "program-not-found"
    exit_status = EXIT_NOT_FOUND


class NotExecutableError(CetoolError):
    """The program that should run the script was found, but the system refuses to execute it."""

    code = "program-not-executable"
    exit_status = EXIT_NOT_EXECUTABLE


class MetadataError(CetoolError):
    """The script's block is malformed; ``where`` is its file and line."""

    code = "block-malformed"


class ConfigError(CetoolError):
    """A setting is unknown or invalid; ``where`` is its file and line, or the variable."""

    code = "setting-invalid"


class LockError(CetoolError):
    """A lock is missing, or does not match what the script declares."""

    code = "lock-stale"


class StoreError(CetoolError):
    """The cache directory cannot be used, or an environment in it cannot be created, found or removed."""

    code = "cache-unusable"


class EngineError(CetoolError):
    """The engine did not create the environment."""

    code = "engine-failed"


class Interrupted(CetoolError):
    """A signal stopped cetool before the script started; the exit status is 128 + its number."""

    code = "interrupted"

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.exit_status = 128 + signum
