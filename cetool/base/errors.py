"""The exceptions that a user can meet: a message, the way out, an exit status.

Everything that cetool refuses or fails at is a :class:`CetoolError`; the door (``cetool.__main__``) prints it as one
paragraph on standard error and exits with its status. Anything else that escapes is a defect.
"""

from __future__ import annotations

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


class Location(Value):
    """A place in a file that a message points at; ``line`` counts from 1, None stands for the whole file."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


class CetoolError(Exception):
    """Something that the user can understand and mend.

    ``message`` says what is wrong in a sentence; ``where`` is the place; ``hint`` says what to do about it.
    """

    exit_status = EXIT_FAILURE

    def __init__(self, message: str, *, where: Location | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        return f"{place}{self.message}"


class UsageError(CetoolError):
    """The command line asks for something that cannot be."""

    exit_status = EXIT_USAGE


class ScriptNotFoundError(CetoolError):
    """There is no such script."""

    exit_status = EXIT_NOT_FOUND


class ScriptNotReadableError(CetoolError):
    """The script is there, but it is a directory, or may not be read."""

    exit_status = EXIT_NOT_EXECUTABLE


class ProgramNotFoundError(CetoolError):
    """The program that should run the script is neither in the environment nor on the PATH."""

    exit_status = EXIT_NOT_FOUND


class NotExecutableError(CetoolError):
    """The program that should run the script was found but the system refuses to execute it."""

    exit_status = EXIT_NOT_EXECUTABLE


class MetadataError(CetoolError):
    """What a script declares is malformed; ``where`` names its file and line."""


class ConfigError(CetoolError):
    """A setting is unknown, or of the wrong type; ``where`` names its file and line, or the variable."""


class LockError(CetoolError):
    """A lock was to be used, and there is none, or none that fits what the script declares."""


class StoreError(CetoolError):
    """The cache directory cannot be used, or an environment in it cannot be made, found or removed."""


class EngineError(CetoolError):
    """The engine did not make the environment.

    ``log`` is the path of the file that keeps everything the engine printed, where there is one.
    """

    def __init__(
        self, message: str, *, where: Location | None = None, hint: str | None = None, log: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.log = log


class Interrupted(CetoolError):
    """A signal asked cetool itself to stop before the script had started (128 + its number is the exit status)."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.exit_status = 128 + signum
