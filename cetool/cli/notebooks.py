"""``cetool run`` of a notebook: its cells run in order in its environment's kernel, and tell what they do."""

from __future__ import annotations

import gc
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cetool.app.background import collect_in_background
from cetool.app.execution import NotebookOptions, RunOptions, note, read_locked_declaration, specification
from cetool.app.session import Session
from cetool.app.sources import Source
from cetool.base.errors import CetoolError, Interrupted, Location, MetadataError, UsageError
from cetool.base.files import put_file
from cetool.base.text import neutral, neutral_line, printable
from cetool.cli.output import write, write_error
from cetool.cli.progress import plain
from cetool.declare.dialects.notebook import Notebook, read_notebook
from cetool.launch.activation import read_activation, variables_of
from cetool.launch.kernels import find_kernel, is_ipykernel, kernel_command
from cetool.launch.parameters import assigned_names, parameters_source, read_parameter
from cetool.warm.environ import ON_WINDOWS

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from cetool.launch.notebooks import CellFailure

#: The exit status where a cell fails: that of a Python script with an exception.
CELL_FAILED = 1
DEFAULTS, INJECTED = "parameters", "injected-parameters"
_MOST_SHOWN = 60
#: Lines of a failing cell that are shown.
_MOST_LINES = 20
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def run_notebook(source: Source, arguments: Sequence[str], session: Session, how: RunOptions) -> NoReturn:
    """Run a notebook in its environment, made where it is missing, and end with the status that this comes to."""
    gc.enable()  # its cells may take hours
    if arguments:
        raise UsageError(
            f"a notebook takes no arguments, and {printable(arguments[0])!r} was given",
            hint="Parameters are set by -p name=value.",
        )
    asked = how.notebook
    metadata, spec, locked_by = read_locked_declaration(source, session, how)
    consent = session.consent()
    notebook = read_notebook(source.script)
    node = _node(notebook)
    first = metadata.cell
    _inject(node, notebook, asked, session, after=None if first is None else notebook.cells[first - 1].index)
    target = _Target(asked.out, session)
    session.voice.block(specification(metadata, session.store.prefix(spec.name), locked_by))
    lease = session.environment(metadata.requirements, spec, refresh=how.refresh, purpose=f"for {source.script.name}")
    note(session, lease, source.script.name if source.data is not None else str(source.script.path))
    collect_in_background(session)

    from cetool.launch.notebooks import KernelSetup, execute_notebook

    kernel = find_kernel(lease.prefix, notebook.language, notebook.kernel)
    variables = variables_of(spec.variables, metadata.dialect, lease.prefix)
    activation = read_activation(lease.prefix, variables, user_site=session.settings.user_site)
    # cells are no commands that someone typed: they do not belong into IPython's history
    more = ("--HistoryManager.hist_file=:memory:",) if is_ipykernel(kernel) else ()
    around = KernelSetup(
        lambda connection: kernel_command(kernel, activation, session.environ, connection, more),
        Path.cwd() if source.data is not None else notebook.script.directory,
        consent,
        () if lease.lock is None or ON_WINDOWS else (lease.lock.fd,),
        sockets=is_ipykernel(kernel),
    )
    outcome = execute_notebook(node, around, _Audience(session, prints=not target.is_stdout))
    target.write(node)
    if outcome.stopped is not None:
        raise Interrupted(outcome.stopped)
    if outcome.failure is not None:
        _tell_failure(source.script.name, outcome.failure)
        sys.exit(CELL_FAILED)
    sys.exit(0)


class _Audience:
    """Prints what cells put out as it comes, and, on standard error, which cell runs."""

    def __init__(self, session: Session, *, prints: bool) -> None:
        self._voice = session.voice
        self._prints = prints

    def cell(self, number: int, total: int, source: str) -> None:
        """Tell of a cell that begins, by its first line of code."""
        lines = [line.strip() for line in source.splitlines() if line.strip()]
        told = next((line for line in lines if not line.startswith("#")), lines[0])
        shown = told if len(told) <= _MOST_SHOWN else told[: _MOST_SHOWN - 1] + "…"
        self._voice.result(f"Cell {number} of {total}: {shown}")

    def output(self, output: Mapping[str, Any]) -> None:
        """Print an output's text where it belongs: results to standard output, unless the notebook itself goes there.

        Raises OSError where nobody reads it any more.
        """
        kind = output["output_type"]
        if kind == "stream":
            text = str(output["text"])
            stream = sys.stderr if output["name"] == "stderr" else sys.stdout
        elif kind in ("execute_result", "display_data"):
            text = str(output["data"].get("text/plain", ""))
            text, stream = text + "\n" if text else "", sys.stdout
        else:
            return
        if self._prints or stream is sys.stderr:
            _print(text, stream)


def _print(text: str, stream: Any) -> None:
    """Write what cells print, which is the script's to form, to a standard stream. Raises OSError."""
    if stream is None:
        return
    write(text, error=stream is sys.stderr)
    stream.flush()


def _tell_failure(name: str, failure: CellFailure) -> None:
    """Show the failing cell, what its kernel says of it, and a sentence on standard error."""
    text = failure.traceback.rstrip("\n") + "\n" if failure.traceback.strip() else ""
    if sys.stderr is None:
        return
    if not sys.stderr.isatty():
        text = _COLOURS.sub("", text)
    if "Cell In[" not in text:  # IPython shows the lines itself
        lines = neutral(failure.source).rstrip().splitlines()
        shown = [f"{number:4} | {line}\n" for number, line in enumerate(lines[:_MOST_LINES], start=1)]
        shown += ["     ...\n"] if len(lines) > _MOST_LINES else []
        text = f"Cell {failure.number} of {neutral_line(name)}:\n{''.join(shown)}{text}"
    reason = neutral(plain(_first_line(failure.reason)))
    write_error(f"{text}cetool: cell {failure.number} of {neutral_line(name)} failed: {reason}\n")


def _first_line(text: str) -> str:
    lines = text.splitlines()
    return (lines[0] + (" ..." if len(lines) > 1 else "")) if lines else ""


# --- the notebook as nbformat has it ----------------------------------------------------------------------------------


def _node(notebook: Notebook) -> NotebookNode:
    """The notebook in format 4, without the outputs of an earlier run. Raises MetadataError."""
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cells of old notebooks have no ids; they are given some
        try:
            node: NotebookNode = nbformat.reads(notebook.script.text, as_version=4)  # type: ignore[no-untyped-call]
            nbformat.validate(node)
        except nbformat.ValidationError as error:
            raise MetadataError(
                f"this notebook is not as notebooks have to be: {plain(_first_line(str(error.message)))}",
                code="notebook-malformed",
                where=notebook.script.at(),
                hint="Open it in Jupyter and save it, which mends most of it.",
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
    node: NotebookNode, notebook: Notebook, asked: NotebookOptions, session: Session, *, after: int | None
) -> None:
    """Put a cell with the parameters into the notebook: behind the one with their defaults, or the one at ``after``.

    A cell that an earlier run injected gives way to it. Raises UsageError.
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
                session.voice.warn(f"the notebook's cell of parameters does not have {printable(name)!r}")
    if tagged[INJECTED] is not None:
        node.cells[tagged[INJECTED]] = new
    else:
        before = after if tagged[DEFAULTS] is None else tagged[DEFAULTS]
        node.cells.insert(0 if before is None else before + 1, new)


def _tagged(node: NotebookNode, tag: str) -> int | None:
    """The index of the first code cell with a tag."""
    cells = enumerate(node.cells)
    return next((at for at, cell in cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])), None)


class _Target:
    """Where the notebook goes that was run: a file, standard output, or nowhere."""

    def __init__(self, path: Path | None, session: Session) -> None:
        """Raises UsageError at once for a file that could not be written afterwards."""
        self._path = path
        self._voice = session.voice
        self.is_stdout = path is not None and str(path) == "-"
        if path is None or self.is_stdout:
            return
        directory = path.resolve().parent
        if path.is_dir():
            raise UsageError(f"--out {path} is a directory", hint="Name a file in it.")
        if not directory.is_dir():
            raise UsageError(f"--out {path}: there is no directory {directory}", hint="Make it first.")
        if not os.access(directory, os.W_OK):
            raise UsageError(f"--out {path}: nothing may be written in {directory}")

    def write(self, node: NotebookNode) -> None:
        """Write the notebook, in one step where it is a file. Raises CetoolError where that fails."""
        import nbformat

        if self._path is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = nbformat.writes(node).rstrip("\n") + "\n"  # type: ignore[no-untyped-call]
        if self.is_stdout:
            _print(text, sys.stdout)
            return
        try:
            put_file(Path(os.path.realpath(self._path)), text.encode())
        except OSError as error:
            raise CetoolError(
                f"the notebook that was run could not be written: {error.strerror or error}",
                code="write-failed",
                where=Location(printable(str(self._path))),
            ) from None
        self._voice.say(f"Wrote {self._path}")
