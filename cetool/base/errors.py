"""The exceptions that a user can meet: a stable code, a message, the object, the place, a hint, an exit status.

Everything that cetool refuses or fails at is a :class:`CetoolError`; ``cetool.__main__`` prints it as one paragraph on
standard error and exits with its status. Anything else that escapes is a defect. Programs tell errors apart by ``code``
(:data:`CODES`); messages may be reworded at any time.
"""

from __future__ import annotations

from typing import Any, TypeVar

from cetool.base.values import Value

#: cetool's own failures, so that a script's exit status is never mistaken for one of them (as env(1) and timeout(1)
#: do).
EXIT_FAILURE = 125
#: Something was found that cannot be executed.
EXIT_NOT_EXECUTABLE = 126
#: A script or program was not found.
EXIT_NOT_FOUND = 127
#: The command line itself is wrong.
EXIT_USAGE = 2

#: What each code means. Codes stay: one that goes away or changes its meaning is a breaking change.
CODES = {
    # the command line and settings
    "usage": "The command line asks for something that cannot be.",
    "value-invalid": "A time or a size is not written as one.",
    "setting-unknown": "There is no setting, or environment variable, of that name.",
    "setting-invalid": "A setting, or a file with settings, cannot be used.",
    "home-missing": "There is no home directory, and no other place is named.",
    "secret-refused": "A password or token would be written or sent where others could read it.",
    "interrupted": "A signal stopped cetool before the script started.",
    "recursion": "A script that cetool runs runs cetool, again and again.",
    "failed": "Something else failed; the message says what.",
    "defect": "cetool or a library that it uses is wrong: please report it.",
    # the script and what it declares
    "script-not-found": "There is no such script.",
    "script-not-readable": "The script is a directory, or may not be read.",
    "script-not-text": "The file is empty, too large or not text.",
    "script-changed": "Another process changed the script meanwhile.",
    "url-invalid": "A URL cannot be used, or does not name one file.",
    "url-unreachable": "The server of a URL does not answer.",
    "url-unauthorized": "The server of a URL refuses access.",
    "url-unusable": "What the server of a URL answers cannot be used.",
    "block-missing": "The script does not say what it needs.",
    "block-ambiguous": "The script says twice what it needs.",
    "block-malformed": "What the script declares is malformed.",
    "block-present": "The script has a block already.",
    "block-not-editable": "The block cannot be changed in this file.",
    "block-not-convertible": "The block cannot be said in another dialect.",
    "key-unknown": "A block has a key that does not exist.",
    "toml-invalid": "A text is not TOML that cetool reads.",
    "yaml-invalid": "A text is not YAML that cetool reads.",
    "notebook-malformed": "A notebook cannot be read.",
    "environment-file-malformed": "An environment.yml or a list of specs cannot be read.",
    "match-spec-invalid": "A text is not a match spec.",
    "requirement-invalid": "A text is not a PyPI requirement that cetool takes.",
    "channel-invalid": "A text is not a channel.",
    "platform-invalid": "A text is not a platform.",
    "platform-mismatch": "Script, environment or record are for another platform.",
    "virtual-package-invalid": "A virtual package has a version that is none.",
    "program-unnamed": "Nothing says which program runs the script.",
    "baseline-invalid": "A baseline cannot be read or used.",
    "baseline-conflict": "What is asked for does not fit the baseline.",
    "consent-refused": "The user did not agree to run the script.",
    "consent-not-found": "There is no kept answer for this script.",
    # packages and channels
    "spec-unsatisfiable": "No environment can have all that is asked for.",
    "package-not-found": "No channel has a package that fits.",
    "package-not-installed": "The environment does not have the package.",
    "package-damaged": "A package, or its unpacked files, are damaged.",
    "channel-not-found": "There is no channel at this place.",
    "channel-unreachable": "The server of a channel does not answer, or answers with an error.",
    "channel-unauthorized": "A channel refuses access.",
    "channel-refused": "conda's configuration rules a channel out.",
    "channel-malformed": "The metadata of a channel cannot be read.",
    "download-failed": "A package could not be fetched.",
    "digest-mismatch": "The content is not what its digest says.",
    "offline-missing": "Nothing may be downloaded, and what is needed is not here.",
    "pypi-not-found": "No index has a PyPI package that fits.",
    "pypi-conflict": "PyPI packages and conda packages do not go together.",
    "pypi-failed": "The PyPI packages could not be installed or found.",
    "index-unreachable": "The index of PyPI packages does not answer.",
    # engines and installers
    "engine-missing": "The engine is not installed.",
    "engine-not-working": "The engine cannot be started, or does not answer.",
    "engine-too-old": "The engine is too old for what is asked for.",
    "engine-failed": "The engine did not make the environment.",
    "engine-stalled": "The engine made no progress for longer than stall-timeout.",
    "memory-exceeded": "The embedded engine took more memory than it may.",
    "link-script-failed": "A package's post-link script failed.",
    "installer-missing": "uv, or a pip that can do what is asked for, is not installed.",
    "installer-too-old": "uv is too old for what is asked for.",
    "installer-failed": "uv or pip did not do what it was to do.",
    # the cache and environments
    "disk-full": "The disk is full, or the quota is used up.",
    "cache-unusable": "The cache directory cannot be used.",
    "cache-not-writable": "A file or directory of cetool's cannot be read or written.",
    "owner-unsafe": "Another user could have written what is to be used.",
    "file-lock-failed": "A file cannot be locked.",
    "usage-log-unusable": "The usage log cannot be read or written.",
    "environment-not-found": "There is no such environment.",
    "environment-gone": "The environment was removed meanwhile, or is not complete.",
    "name-ambiguous": "An abbreviated name fits several environments or overlays.",
    "environment-in-use": "The environment is in use.",
    "environment-damaged": "The environment is damaged or not complete.",
    "base-unusable": "The base of an overlay cannot be used.",
    "overlay-not-found": "There is no overlay of that name.",
    "overlay-malformed": "The recipe of an overlay, or a project in it, cannot be read.",
    "overlay-changed": "Another process changed the overlay meanwhile.",
    "overlay-conflict": "The packages cannot be laid over the base.",
    # locks
    "lock-missing": "There is no lock.",
    "lock-stale": "The lock does not fit what the script declares.",
    "lock-platform-missing": "The lock has nothing for this platform.",
    "lock-malformed": "A lock cannot be read.",
    "lock-unrecognized": "A file is not a lock of a format that cetool reads.",
    "lock-impossible": "What is asked for cannot be locked.",
    # running and records
    "program-not-found": "There is no such program.",
    "program-not-executable": "The program cannot be executed.",
    "activation-failed": "The environment's activation scripts failed.",
    "entrypoint-failed": "A command in the entrypoint failed.",
    "kernel-failed": "A notebook's kernel did not start.",
    "record-malformed": "A run record cannot be read.",
    "record-incomplete": "The run record does not have what another run needs.",
    "write-failed": "A file could not be written.",
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
    """Something that the user can understand and mend.

    ``message`` says what is wrong in a sentence, ``about`` is the object (a package, a channel, a path, a setting),
    ``where`` the place, ``details`` are lines that explain it (a solver's tree), ``hint`` says what to do, ``log`` is
    the file with everything that a program printed. Other
    code compares the class or ``code``, never the message; :meth:`but` and :meth:`turned_into` copy an error.
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
        place = f"{self.where}: " if self.where is not None else ""
        return f"{place}{self.message}"

    def but(self: _E, **fields: Any) -> _E:
        """Copy the error with other values in some fields."""
        return self.turned_into(type(self), **fields)

    def turned_into(self, kind: type[_K], **fields: Any) -> _K:
        """Copy the error as one of another class, whose default code counts unless this one has its own."""
        message = fields.get("message", self.message)
        other = kind.__new__(kind, message)
        other.__dict__.update({**self.__dict__, **fields})
        return other

    def as_json(self) -> dict[str, object]:
        """The error as docs/reference/json.md describes it."""
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


class UsageError(CetoolError):
    """The command line asks for something that cannot be."""

    code = "usage"
    exit_status = EXIT_USAGE


class ScriptNotFoundError(CetoolError):
    """There is no such script."""

    code = "script-not-found"
    exit_status = EXIT_NOT_FOUND


class ScriptNotReadableError(CetoolError):
    """The script is there, but it is a directory, or may not be read."""

    code = "script-not-readable"
    exit_status = EXIT_NOT_EXECUTABLE


class ProgramNotFoundError(CetoolError):
    """The program that should run the script is neither in the environment nor on the PATH."""

    code = "program-not-found"
    exit_status = EXIT_NOT_FOUND


class NotExecutableError(CetoolError):
    """The program that should run the script was found but the system refuses to execute it."""

    code = "program-not-executable"
    exit_status = EXIT_NOT_EXECUTABLE


class MetadataError(CetoolError):
    """What a script declares is malformed; ``where`` names its file and line."""

    code = "block-malformed"


class ConfigError(CetoolError):
    """A setting is unknown, or of the wrong type; ``where`` names its file and line, or the variable."""

    code = "setting-invalid"


class LockError(CetoolError):
    """A lock was to be used, and there is none, or none that fits what the script declares."""

    code = "lock-stale"


class StoreError(CetoolError):
    """The cache directory cannot be used, or an environment in it cannot be made, found or removed."""

    code = "cache-unusable"


class EngineError(CetoolError):
    """The engine did not make the environment."""

    code = "engine-failed"


class Interrupted(CetoolError):
    """A signal asked cetool itself to stop before the script had started (128 + its number is the exit status)."""

    code = "interrupted"

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.exit_status = 128 + signum
