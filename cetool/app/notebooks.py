"""Runs a notebook: its cells in order, in the kernel of its environment."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cetool.app.decision import Decision
from cetool.app.reporting import Reporter, plain
from cetool.app.starting import NotebookOptions, Ready
from cetool.base.errors import CetoolError, Interrupted, Location, MetadataError, UsageError
from cetool.base.files import put_file
from cetool.base.text import neutral, neutral_line, printable
from cetool.declare.dialects.notebook import Notebook, read_notebook
from cetool.launch.kernels import find_kernel, is_ipykernel, kernel_command
from cetool.launch.notebooks import CellFailure, KernelSetup, execute_notebook
from cetool.launch.parameters import assigned_names, parameters_source, read_parameter
from cetool.warm.environ import ON_WINDOWS

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: The exit status if a cell fails: that of a Python script that ends with an exception.
CELL_FAILED = 1
DEFAULTS, INJECTED = "parameters", "injected-parameters"
_MOST_SHOWN = 60
#: Found where IPython itself shows the lines of a failing cell; there may be colours between the words.
_OWN_LINES = re.compile(r"Cell(?:\x1b\[[\d;]*m| )+In(?:\x1b\[[\d;]*m)*\[")
#: How many lines of a failing cell are shown.
_MOST_LINES = 20


def prepare_notebook(
    decision: Decision, arguments: Sequence[str], asked: NotebookOptions, reporter: Reporter
) -> Callable[[Ready], NoReturn]:
    """Return the function that runs a notebook in its environment. Raises CetoolError for what would fail there."""
    if arguments:
        raise UsageError(
            f"notebooks take parameters, not arguments: {printable(arguments[0])!r}",
            hint="Set a parameter with `-p NAME=VALUE`.",
        )
    assert decision.source is not None
    notebook = read_notebook(decision.source.script)
    node = _node(notebook)
    first = decision.metadata.cell
    _inject(node, notebook, asked, reporter, after=None if first is None else notebook.cells[first - 1].index)
    return partial(_run_notebook, notebook, node, _Target(asked.out, reporter))


def _run_notebook(notebook: Notebook, node: NotebookNode, target: _Target, ready: Ready) -> NoReturn:
    """Run a notebook's cells in its environment's kernel, and exit: with 1 if a cell failed."""
    world, lease, source, activation = ready.world, ready.lease, ready.source, ready.activation
    kernel = find_kernel(lease.prefix, notebook.language, notebook.kernel)
    # cells are not commands that a user typed, so they do not belong in IPython's history
    more = ("--HistoryManager.hist_file=:memory:",) if is_ipykernel(kernel) else ()
    around = KernelSetup(
        lambda connection: kernel_command(kernel, activation, world.environ, connection, more),
        Path.cwd() if source.data is not None else notebook.script.directory,
        ready.consent,
        () if ON_WINDOWS else tuple(lock.fd for lock in lease.locks),
        sockets=is_ipykernel(kernel),
    )
    outcome = execute_notebook(node, around, _Audience(ready.reporter, prints=not target.is_stdout))
    target.write(node)
    if outcome.stopped is not None:
        raise Interrupted(outcome.stopped)
    if outcome.failure is not None:
        _report_failure(source.script.name, outcome.failure, ready.reporter)
        sys.exit(CELL_FAILED)
    sys.exit(0)


class _Audience:
    """Prints the output of cells when it comes, and on standard error which cell runs."""

    def __init__(self, reporter: Reporter, *, prints: bool) -> None:
        self._reporter = reporter
        self._prints = prints

    def cell(self, number: int, total: int, source: str) -> None:
        """Report which cell begins, by its first line of code."""
        lines = [line.strip() for line in source.splitlines() if line.strip()]
        first = next((line for line in lines if not line.startswith("#")), lines[0])
        shown = first if len(first) <= _MOST_SHOWN else first[: _MOST_SHOWN - 1] + "…"
        self._reporter.say(f"Cell {number} of {total}: {shown}")

    def output(self, output: Mapping[str, Any]) -> None:
        """Print an output's text: results to standard output, unless the notebook itself is written there.

        Raises OSError if no program reads it any more.
        """
        kind, error = output["output_type"], False
        if kind == "stream":
            text, error = str(output["text"]), output["name"] == "stderr"
        elif kind in ("execute_result", "display_data"):
            text = str(output["data"].get("text/plain", ""))
            text = text + "\n" if text else ""
        else:
            return
        if self._prints or error:
            self._reporter.output(text, error=error)


def _report_failure(name: str, failure: CellFailure, reporter: Reporter) -> None:
    """Print the failing cell, its traceback and a sentence on standard error."""
    text = failure.traceback.rstrip("\n") + "\n" if failure.traceback.strip() else ""
    if not _OWN_LINES.search(text):
        lines = neutral(failure.source).rstrip().splitlines()
        shown = [f"{number:4} | {line}\n" for number, line in enumerate(lines[:_MOST_LINES], start=1)]
        shown += ["     ...\n"] if len(lines) > _MOST_LINES else []
        text = f"Cell {failure.number} of {neutral_line(name)}:\n{''.join(shown)}{text}"
    reason = neutral(plain(_first_line(failure.reason)))
    text += f"cetool: cell {failure.number} of {neutral_line(name)} failed: {reason}\n"
    with suppress(OSError, ValueError):
        reporter.output(text, error=True, colours=False)


def _first_line(text: str) -> str:
    lines = text.splitlines()
    return (lines[0] + (" ..." if len(lines) > 1 else "")) if lines else ""


# --- the notebook in nbformat -----------------------------------------------------------------------------------------


def _node(notebook: Notebook) -> NotebookNode:
    """Return the notebook in format 4, without the outputs of an earlier run. Raises MetadataError."""
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cells of old notebooks have no ids; nbformat adds some
        try:
            node: NotebookNode = nbformat.reads(notebook.script.text, as_version=4)  # type: ignore[no-untyped-call]
            nbformat.validate(node)
        except nbformat.ValidationError as error:
            raise MetadataError(
                f"this is not a valid notebook: {plain(_first_line(str(error.message)))}",
                code="notebook-malformed",
                where=notebook.script.at(),
                hint="Open and save it in Jupyter, which repairs most notebooks.",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetadataError(
                f"this notebook cannot be read: {error}", code="notebook-malformed", where=notebook.script.at()
            ) from None
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return node


def _inject(
    node: NotebookNode, notebook: Notebook, asked: NotebookOptions, reporter: Reporter, *, after: int | None
) -> None:
    """Insert a cell with the parameters: after the cell of their defaults, else after the one at ``after``.

    It replaces a cell that an earlier run inserted. Raises UsageError.
    """
    values = dict(read_parameter(text) for text in asked.parameters)
    values.update(read_parameter(text, raw=True) for text in asked.raw_parameters)
    if not values:
        return
    import nbformat.v4

    text = parameters_source(notebook.language, values)
    new = nbformat.v4.new_code_cell(text, metadata={"tags": [INJECTED]})  # type: ignore[no-untyped-call]
    if (node.nbformat, node.nbformat_minor) < (4, 5):
        del new["id"]
    tagged = {tag: _tagged(node, tag) for tag in (DEFAULTS, INJECTED)}
    if tagged[DEFAULTS] is not None and notebook.language == "python":
        known = assigned_names(node.cells[tagged[DEFAULTS]].source)
        for name in values:
            if known is not None and name not in known:
                reporter.warn(f"the notebook's cell of parameters does not define {printable(name)!r}")
    if tagged[INJECTED] is not None:
        node.cells[tagged[INJECTED]] = new
    else:
        before = after if tagged[DEFAULTS] is None else tagged[DEFAULTS]
        node.cells.insert(0 if before is None else before + 1, new)


def _tagged(node: NotebookNode, tag: str) -> int | None:
    """Return the index of the first code cell with a tag."""
    cells = enumerate(node.cells)
    return next((at for at, cell in cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])), None)


class _Target:
    """Where the notebook with its outputs is written: a file, standard output, or nowhere."""

    def __init__(self, path: Path | None, reporter: Reporter) -> None:
        """Check that the file can be written when the notebook has run. Raises UsageError."""
        self._path = path
        self._reporter = reporter
        self.is_stdout = path is not None and str(path) == "-"
        if path is None or self.is_stdout:
            return
        directory = path.resolve().parent
        if path.is_dir():
            raise UsageError(f"--out {path} is a directory", hint="Name a file in it.")
        if not directory.is_dir():
            raise UsageError(f"--out {path}: there is no directory {directory}", hint="Create the directory first.")
        if not os.access(directory, os.W_OK):
            raise UsageError(f"--out {path}: {directory} is not writable")

    def write(self, node: NotebookNode) -> None:
        """Write the notebook, in one step if it is a file. Raises CetoolError if that fails."""
        import nbformat

        if self._path is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = nbformat.writes(node).rstrip("\n") + "\n"  # type: ignore[no-untyped-call]
        if self.is_stdout:
            self._reporter.output(text)
            return
        try:
            put_file(Path(os.path.realpath(self._path)), text.encode())
        except OSError as error:
            raise CetoolError(
                f"the notebook ran, but could not be written: {error.strerror or error}",
                code="write-failed",
                where=Location(printable(str(self._path))),
            ) from None
        self._reporter.say(f"Wrote {self._path}")
