"""Read Jupyter notebooks: their cells, their language, and the environment that they declare.

A notebook declares its environment in a code cell, as a script of its language would, or in its metadata. Code cells
are counted as Jupyter counts them when all are run: from 1, without empty ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cetool.base.errors import Location, MetadataError, UsageError
from cetool.base.limits import parse_json
from cetool.base.text import pattern, shorten
from cetool.declare.blocks import (
    DIALECTS,
    Block,
    Declaration,
    comment_lines,
    find_block,
    near_miss,
    near_miss_advice,
    read_block,
)
from cetool.declare.match_specs import spec_name
from cetool.declare.metadata import ENVIRONMENT_FILE, ScriptMetadata
from cetool.declare.nodes import Node
from cetool.declare.requirements import Ignored, Requirements
from cetool.declare.source import Script

#: The package whose kernel runs a language by default, and others that bring one.
KERNEL_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "python": ("ipykernel", "xeus-python", "xeus-python-raw"),
    "r": ("r-irkernel", "xeus-r"),
    "bash": ("bash_kernel",),
}
#: The keys of the notebook's own metadata, with the dialect of their values.
METADATA_KEYS = {key: dialect.name for dialect in DIALECTS.values() for key in dialect.notebook_keys}
#: Languages by the usual names of their kernels, for notebooks that do not name their language.
_LANGUAGES = {"ir": "r", "irkernel": "r", "xpython": "python", "xr": "r", "bash": "bash"}
_SUFFIXES = {"python": ".py", "r": ".r", "bash": ".sh", "julia": ".jl", "javascript": ".js", "c++": ".cpp"}
#: Cell magics whose cells are still code of the notebook: a block below another magic belongs to another file.
_TRANSPARENT = ("time", "timeit", "capture", "prun")
_MAGIC = pattern(r"\s*%%(\w+)")
#: The deepest nesting of a specification in the metadata.
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Cell:
    """A code cell that is not empty."""

    number: int
    #: Its index among all cells, from 0.
    index: int
    text: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notebook:
    """A notebook's code cells, language and metadata."""

    script: Script
    #: In lower case.
    language: str
    #: The name of a kernel, if the notebook has one.
    kernel: str | None
    #: The code cells.
    cells: tuple[Cell, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def cell_script(self, cell: Cell) -> Script:
        """Return the cell as a script of the notebook's language, in the notebook's directory."""
        return self.part(f"cell {cell.number}", cell.text.replace("\r\n", "\n").replace("\r", "\n"))

    def part(self, name: str, text: str) -> Script:
        """Return a part of the notebook as such a script."""
        path = self.script.path
        suffix = _SUFFIXES.get(self.language, "")
        return Script(path.with_name(path.name + suffix), f"{self.script.name}:{name}", text)


def read_notebook(script: Script) -> Notebook:
    """Read the notebook in a file's text (nbformat 3 and 4). Raises MetadataError, with the line if it is not JSON."""
    try:
        data = parse_json(script.text)
    except json.JSONDecodeError as error:
        message = f"the notebook is not valid JSON: {error.msg} (column {error.colno})"
        hint = "Open it in Jupyter, or copy or download it again."
        raise _malformed(message, script.at(error.lineno), hint) from None
    except ValueError as error:
        hint = "Clear its outputs (jupyter nbconvert --clear-output --inplace), or open it in Jupyter."
        raise _malformed(f"cannot read the notebook: {shorten(str(error))}", script.at(), hint) from None
    major = _table(data).get("nbformat")
    if not isinstance(major, int) or major not in (3, 4):
        message = f"the notebook has format {shorten(str(major))}; cetool reads 3 and 4"
        if major is None:
            message = "not a notebook: nbformat is missing"
        hint = "A notebook is a JSON object with 'nbformat', 'metadata' and 'cells', as Jupyter writes it."
        raise _malformed(message, script.at(), hint)
    metadata = _table(data.get("metadata"))
    cells = _code_cells(data, script)
    return Notebook(script, *_language(metadata), cells, metadata)


def _malformed(message: str, where: Location, hint: str | None = None) -> MetadataError:
    return MetadataError(message, code="notebook-malformed", where=where, hint=hint)


def _code_cells(data: Mapping[str, Any], script: Script) -> tuple[Cell, ...]:
    """Return the code cells, which are in worksheets in format 3."""
    listed, key = data.get("cells"), "source"
    if data["nbformat"] == 3:
        listed = [cell for sheet in _list(data.get("worksheets")) for cell in _list(_table(sheet).get("cells"))]
        key = "input"
    if not isinstance(listed, list):
        raise _malformed("the notebook has no list of cells", script.at())
    found: list[Cell] = []
    for index, cell in enumerate(map(_table, listed)):
        source = cell.get(key, "")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if cell.get("cell_type") == "code" and text.strip():
            tags = tuple(map(str, _list(_table(cell.get("metadata")).get("tags"))))
            found.append(Cell(len(found) + 1, index, text, tags))
    return tuple(found)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _language(metadata: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the language of a notebook and the name of its kernel."""
    spec, info = _table(metadata.get("kernelspec")), _table(metadata.get("language_info"))
    kernel = spec.get("name")
    kernel = kernel if isinstance(kernel, str) and kernel else None
    for named in (spec.get("language"), info.get("name")):
        if isinstance(named, str) and named.strip():
            # names that ipython and IRkernel have used
            name = named.strip().lower()
            return {"ipython": "python", "python3": "python"}.get(name, name), kernel
    return _LANGUAGES.get((kernel or "").lower(), "python"), kernel


# --- the environment that it declares ---------------------------------------------------------------------------------


def find_cell(notebook: Notebook) -> tuple[Cell, Block] | None:
    """Return the code cell with a block, and the block; None if there is none. Raises MetadataError for two."""
    found: list[tuple[Cell, Block]] = []
    for cell in notebook.cells:
        magic = _MAGIC.match(cell.text)
        if magic is not None and magic[1] not in _TRANSPARENT:
            continue
        block = find_block(notebook.cell_script(cell))
        if block is not None:
            found.append((cell, block))
    if len(found) > 1:
        real = [each for each in found if comment_lines(notebook.cell_script(each[0]), [each[1].first])]
        found = real or found
    if len(found) > 1:
        one, other = found[0], found[1]
        raise MetadataError(
            f"the notebook has two blocks: one in cell {one[0].number}, and one in cell {other[0].number}",
            code="block-ambiguous",
            where=notebook.cell_script(other[0]).at(other[1].first),
            hint="Keep one of them: a notebook can have only one block.",
        )
    return found[0] if found else None


def read_notebook_metadata(script: Script, platform: str | None = None) -> ScriptMetadata:
    """Return what a notebook declares for a platform (None: this one), with a kernel's package if that is missing.

    Raises MetadataError.
    """
    notebook = read_notebook(script)
    found = find_cell(notebook)
    keys = [key for key in METADATA_KEYS if key in notebook.metadata]
    if len(keys) + (found is not None) > 1:
        places = [*([] if found is None else [f"in cell {found[0].number}"]), *(f"below {key!r}" for key in keys)]
        raise MetadataError(
            f"the notebook declares its environment twice: {places[0]}, and {places[1]} of its metadata",
            code="block-ambiguous",
            where=script.at(),
            hint="Keep one of them.",
        )
    if found is not None:
        cell, block = found
        source = notebook.cell_script(cell)
        metadata = _without_command(block.dialect, source, read_block(block, source, platform))
        metadata = metadata._replace(lines=(block.first, block.last), cell=cell.number)
    elif keys:
        metadata = _from_metadata(notebook, keys[0], platform)
    else:
        raise _nothing_found(notebook)
    return _as_notebook(metadata, notebook)


def notebook_in_file_environment(script: Script, requirements: Requirements) -> ScriptMetadata:
    """Return the metadata of a notebook that declares nothing, with the environment of an environment file."""
    notebook = read_notebook(script)
    found = find_cell(notebook)
    key = next((key for key in METADATA_KEYS if key in notebook.metadata), None)
    if found is not None or key is not None:
        place = f"cell {found[0].number}" if found is not None else f"{key!r} in its metadata"
        raise UsageError(
            f"--env-file cannot be used: {script.name} declares its own environment ({place})",
            hint="Leave out --env-file, or add single packages with --with.",
        )
    return _as_notebook(ScriptMetadata(ENVIRONMENT_FILE, str(script.path), None, requirements, None), notebook)


def with_kernel(requirements: Requirements, language: str) -> tuple[Requirements, str | None]:
    """Return the requirements with a kernel for the language, and the package that was added for it, if any."""
    known = () if requirements.environment is not None else KERNEL_PACKAGES.get(language, ())
    names = {spec_name(spec) for spec in requirements.packages}
    names |= {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0].lower() for text in requirements.pypi}
    if not known or names & set(known):
        return requirements, None
    return requirements.plus(Requirements(packages=(known[0],))), known[0]


def _as_notebook(metadata: ScriptMetadata, notebook: Notebook) -> ScriptMetadata:
    requirements, _ = with_kernel(metadata.requirements, notebook.language)
    return metadata._replace(
        path=str(notebook.script.path),
        requirements=requirements,
        run_with=None,
        entrypoint=None,
        language=notebook.language,
        kernel=notebook.kernel,
    )


def _without_command(dialect: str, source: Script, declared: Declaration) -> ScriptMetadata:
    """Return the declaration without its command, which notebooks do not use, and warn if it has one."""
    requirements, run_with, entrypoint = declared
    ignored = "entrypoint" if entrypoint is not None else "run_with" if run_with is not None else None
    if ignored is not None:
        text = f"{ignored} is ignored: a notebook's cells are run by its kernel"
        requirements = requirements._replace(warnings=(*requirements.warnings, Ignored(text, source.at())))
    return ScriptMetadata(dialect, str(source.path), None, requirements, None)


def _from_metadata(notebook: Notebook, key: str, platform: str | None) -> ScriptMetadata:
    """Return what the notebook's own metadata declares: a dialect's keys as JSON, or the text of a block."""
    dialect, value = METADATA_KEYS[key], notebook.metadata[key]
    source = notebook.part(f"metadata.{key}", "\n")
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(line.removesuffix("\n") + "\n" for line in value)
    if isinstance(value, str):
        content = tuple(value.rstrip("\n").split("\n"))
        block = Block(dialect, 1, len(content), content, tuple(range(1, len(content) + 1)))
        return _without_command(dialect, source, read_block(block, source, platform))
    root = _node(value, Location(source.name), 0)
    return _without_command(dialect, source, DIALECTS[dialect].reader.read_keys(root, source, platform))


def _node(value: Any, where: Location, depth: int) -> Node:
    """Return a JSON value as the tree that the dialects read."""
    if depth > _MAX_DEPTH:
        raise MetadataError("the metadata is nested too deeply", code="notebook-malformed", where=where)
    if isinstance(value, dict):
        entries = {
            key: _node(item, Location(f"{where.path}.{shorten(key, 40)}"), depth + 1) for key, item in value.items()
        }
        return Node("mapping", where, entries=entries)
    if isinstance(value, list):
        return Node("list", where, items=tuple(_node(item, where, depth + 1) for item in value))
    if isinstance(value, str):
        return Node("text", where, value)
    if value is None:
        return Node("nothing", where)
    return Node("boolean" if isinstance(value, bool) else "number", where, json.dumps(value))


def _nothing_found(notebook: Notebook) -> MetadataError:
    source = notebook.cell_script(notebook.cells[0]) if notebook.cells else notebook.script
    close = near_miss(source)
    name = notebook.script.name
    if close is not None:
        problem, hint = near_miss_advice(source, close)
        return MetadataError(problem, code="block-missing", about=name, where=source.at(close), hint=hint)
    advice = f"`cetool add {name} numpy` writes a block into its first code cell; `--with numpy` and "
    advice += "`--env-file environment.yml` run it without one."
    return MetadataError(
        f"{name} declares no environment",
        code="block-missing",
        about=name,
        hint=f"{advice}\nA block looks like this:\n# conda execute\n# env:\n#  - python\n#  - numpy",
    )
