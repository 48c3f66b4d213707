"""Run a notebook's cells, by nbclient, in a kernel that is started for them and ends with them.

Importing this module is slow: only import it to run a notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_async
from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from cetool.base.errors import CetoolError
from cetool.base.process import Consent
from cetool.launch.process import Command, command_line
from cetool.warm.environ import ON_WINDOWS

#: Maximum bytes in the path of a directory with sockets: the system allows 104 or 108 for a socket.
_LONGEST_SOCKET = 85
#: Maximum bytes shown of what a kernel printed before it died.
_MOST_LOG = 4000
#: Seconds that a kernel may take for its first answer.
_STARTUP_TIMEOUT = 300
#: Seconds that a cell has to end after an interrupt, and a kernel after a shutdown request.
_GRACE = 10.0
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Audience(Protocol):
    """Receives events while they happen."""

    def cell(self, number: int, total: int, source: str) -> None:
        """A cell begins: its number (from 1), the number of cells, its source."""

    def output(self, output: Mapping[str, Any]) -> None:
        """A cell has produced output, in nbformat's form. Raises OSError if the reader is gone."""


@dataclass(frozen=True)
class CellFailure:
    """The cell that failed."""

    #: From 1.
    number: int
    #: Its source.
    source: str
    reason: str
    #: From the kernel; may be empty.
    traceback: str = ""


@dataclass(frozen=True)
class NotebookResult:
    """How a run ended: successfully if both are None, else at a cell or by a signal."""

    failure: CellFailure | None = None
    stopped: int | None = None


@dataclass(frozen=True)
class KernelSetup:
    """Where a kernel runs."""

    #: Returns the command for a connection file.
    command: Callable[[str], Command]
    #: Working directory.
    directory: Path
    consent: Consent
    #: Descriptors that it keeps open.
    keep: Sequence[int] = ()
    #: Whether it uses sockets in a private directory; otherwise TCP, which every kernel supports.
    sockets: bool = False


def execute_notebook(notebook: NotebookNode, around: KernelSetup, audience: Audience) -> NotebookResult:
    """Run the code cells in order until one fails, and put their outputs into the notebook.

    SIGINT, SIGTERM and SIGHUP interrupt the running cell, and a second one kills it. When this returns, the kernel has
    ended. Raises CetoolError if it does not start.
    """
    # what nbclient and its libraries log is reported in other ways
    for name in ("traitlets", "asyncio", "nbclient"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place = Path(tempfile.mkdtemp(prefix="cetool-kernel-"))
    try:
        return asyncio.run(_Run(notebook, around, audience, place).run())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def executed_cells(notebook: NotebookNode) -> list[int]:
    """Return the indexes of the cells to run: code that is not empty and not tagged ``skip-execution``."""
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip() and "skip-execution" not in cell.metadata.get("tags", [])
    ]


class _OneKernel(KernelSpecManager):
    """Knows the kernel of one environment, whatever kernels this user has installed."""

    spec = KernelSpec(argv=[])

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self.spec


class _Client(NotebookClient):
    """nbclient's client, which reports each output when it arrives."""

    told: Callable[[Mapping[str, Any]], None] = staticmethod(lambda output: None)

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None:
            self.told(out)
        return out


class _Run:
    """One run of a notebook."""

    def __init__(self, notebook: NotebookNode, around: KernelSetup, audience: Audience, place: Path) -> None:
        self._notebook = notebook
        self._around = around
        self._audience = audience
        self._log = place / "kernel.log"
        connection = place / "kernel.json"
        specs = _OneKernel()
        command = around.command(os.path.realpath(connection))
        self._environ = dict(command.environ)
        # as arguments of the real command line, so that Jupyter does not replace placeholders in its words
        specs.spec = KernelSpec(argv=command_line(command), display_name="", language="")
        self._manager = AsyncKernelManager(
            kernel_spec_manager=specs, connection_file=str(connection), shutdown_wait_time=_GRACE
        )
        if around.sockets and not ON_WINDOWS and len(os.fsencode(place)) < _LONGEST_SOCKET:
            self._manager.transport, self._manager.ip = "ipc", str(place / "kernel")
        self._client = _Client(
            notebook,
            km=self._manager,
            timeout=None,
            startup_timeout=_STARTUP_TIMEOUT,
            record_timing=False,
            coalesce_streams=True,
            ipython_hist_file="",
        )
        self._client.told = self._tell
        self._stopped: int | None = None
        self._executing = False
        self._gave_up = False
        self._ended = False
        self._interrupting: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> NotebookResult:
        """Start the kernel, run the cells, end the kernel."""
        self._task = asyncio.current_task()
        with self._signals():
            try:
                failure = await self._start_and_execute()
            except asyncio.CancelledError:
                if self._stopped is None:
                    raise
                failure = None
            finally:
                self._ended = True
                await self._end_kernel()
        return NotebookResult(None if self._stopped is not None else failure, self._stopped)

    async def _start_and_execute(self) -> CellFailure | None:
        client = self._client
        try:
            with self._log.open("wb") as log:
                options: dict[str, Any] = {} if ON_WINDOWS else {"pass_fds": tuple(self._around.keep)}
                await client.async_start_new_kernel(
                    env=self._environ, cwd=str(self._around.directory), stdout=log, stderr=log, **options
                )
            await client.async_start_new_kernel_client()
            assert client.kc is not None
            answer = await client.async_wait_for_reply(client.kc.kernel_info())
        except (RuntimeError, DeadKernelError, OSError) as error:
            if self._stopped is not None:
                return None
            printed = self._printed()
            raise CetoolError(
                f"the kernel did not start: {error}",
                code="kernel-failed",
                hint=f"It printed:\n{printed}"
                if printed
                else "It printed nothing. Re-create its environment with --refresh.",
            ) from None
        if answer is not None and "language_info" in answer["content"]:
            self._notebook.metadata["language_info"] = answer["content"]["language_info"]
        cells = executed_cells(self._notebook)
        for number, index in enumerate(cells, start=1):
            if self._stopped is not None:
                return None
            failure = await self._execute(number, len(cells), index)
            if failure is not None:
                return failure
        client.set_widgets_metadata()
        return None

    async def _execute(self, number: int, total: int, index: int) -> CellFailure | None:
        cell = self._notebook.cells[index]
        self._audience.cell(number, total, cell.source)
        self._executing = True
        try:
            await self._client.async_execute_cell(cell, index)
        except CellExecutionError as error:
            return _failure(number, cell, error)
        except (DeadKernelError, CellTimeoutError):
            return CellFailure(number, cell.source, await self._how_it_died(), self._printed())
        finally:
            self._executing = False
        return None

    async def _how_it_died(self) -> str:
        provisioner = self._manager.provisioner
        status = None if provisioner is None else await provisioner.poll()
        if status is None:
            return "the kernel stopped responding"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"the kernel was killed by {signal.Signals(-status).name}"
            return f"the kernel was killed by signal {-status}"
        return f"the kernel exited with status {status}"

    async def _end_kernel(self) -> None:
        manager, client = self._manager, self._client
        if client.kc is not None:
            client.kc.stop_channels()
        try:
            if manager.has_kernel:
                await manager.shutdown_kernel(now=self._gave_up)
        except RuntimeError:
            pass
        finally:
            await ensure_async(manager.cleanup_resources())

    def _tell(self, output: Mapping[str, Any]) -> None:
        try:
            self._audience.output(output)
        except OSError:  # its reader has gone
            self._stop(getattr(signal, "SIGPIPE", signal.SIGTERM))

    @contextlib.contextmanager
    def _signals(self) -> Any:
        """Have signals end the run. A signal that the caller ignores (nohup) stays ignored."""
        loop = asyncio.get_running_loop()
        taken = []
        for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(NotImplementedError):  # Windows
                    before = signal.getsignal(number)
                    loop.add_signal_handler(number, self._stop, number)
                    taken.append((number, before))
        try:
            yield
        finally:
            for number, before in taken:
                loop.remove_signal_handler(number)
                signal.signal(number, before)

    def _stop(self, number: int) -> None:
        """Interrupt the cell; give up on it after a while, or if called again."""
        again, self._stopped = self._stopped is not None, self._stopped or number
        if again or not self._executing:
            self._give_up()
            return
        loop = asyncio.get_running_loop()
        self._interrupting = loop.create_task(self._interrupt())
        loop.call_later(_GRACE, self._give_up)

    async def _interrupt(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # it has just ended
            await self._manager.interrupt_kernel()

    def _give_up(self) -> None:
        if not self._ended and not self._gave_up and self._task is not None:
            self._gave_up = True
            self._task.cancel()

    def _printed(self) -> str:
        """Return the end of what the kernel printed; cell output arrives in another way, and partly also here."""
        try:
            text = self._log.read_bytes()[-_MOST_LOG:].decode("utf-8", "replace")
        except OSError:
            return ""
        return text.partition("\n")[2] if len(text) == _MOST_LOG else text


def _failure(number: int, cell: NotebookNode, error: CellExecutionError) -> CellFailure:
    errors = [output for output in cell.outputs if output.output_type == "error"]
    traceback = "\n".join(errors[-1].traceback) if errors else ""
    return CellFailure(
        number, cell.source, f"{error.ename}: {error.evalue}" if error.evalue else error.ename, traceback
    )
