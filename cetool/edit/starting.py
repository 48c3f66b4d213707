"""Write a script's first block, and find the packages that a Python script imports.

Only packages that are certain are written; the block has the comments of the script's language.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.errors import UsageError
from cetool.declare.blocks import CONDA_SCRIPT, PEP723, find_block
from cetool.declare.languages import Language, language_of
from cetool.declare.match_specs import canonical_spec
from cetool.declare.metadata import choose_program
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import DEFAULT_CHANNEL, Requirements
from cetool.declare.source import Script
from cetool.edit.declared import package_name
from cetool.edit.document import Document, NotWrittenError, require_script
from cetool.edit.editing import Edited, comparable, declared_again, refuse_secret
from cetool.edit.rendering import NewBlock, entrypoint_of, render

# Packages that are imported by their own name, on conda-forge and on PyPI.
_SAME = """
aiohttp altair arviz astropy biopython boto3 botocore bokeh cartopy click colorama cryptography cycler dask docopt emcee
fastapi fiona flask folium fsspec geopandas h5py httpx imageio ipykernel ipywidgets jax jinja2 joblib jsonschema keras
lightgbm llvmlite lxml mako markdown markupsafe matplotlib mpi4py mpmath nbconvert nbformat networkx nibabel nltk numba
numexpr numpy obspy openpyxl packaging pandas panel paramiko patsy pendulum pint plotly polars psutil psycopg2 pyarrow
pydantic pygments pymongo pymysql pyproj pysam pytest pytz rasterio redis regex requests rich rioxarray scipy scrapy
seaborn shapely simplejson six spacy sqlalchemy statsmodels sympy tabulate tensorflow termcolor toml tomli tomlkit toolz
tornado tqdm transformers typer typing_extensions unidecode urllib3 uvicorn websockets xarray xgboost xlrd xlsxwriter
zarr zstandard
"""

# Packages imported by another name: import, name on conda-forge, name on PyPI.
_OTHER = """
Bio biopython biopython
Crypto pycryptodome pycryptodome
IPython ipython ipython
OpenSSL pyopenssl pyopenssl
PIL pillow pillow
attr attrs attrs
attrs attrs attrs
bs4 beautifulsoup4 beautifulsoup4
cv2 opencv opencv-python
dateutil python-dateutil python-dateutil
docx python-docx python-docx
dotenv python-dotenv python-dotenv
fitz pymupdf pymupdf
git gitpython gitpython
graphviz python-graphviz graphviz
igraph python-igraph igraph
jwt pyjwt pyjwt
mpl_toolkits matplotlib matplotlib
msgpack msgpack-python msgpack
netCDF4 netcdf4 netcdf4
osgeo gdal gdal
pkg_resources setuptools setuptools
pptx python-pptx python-pptx
serial pyserial pyserial
setuptools setuptools setuptools
skimage scikit-image scikit-image
sklearn scikit-learn scikit-learn
tables pytables tables
torch pytorch torch
usb pyusb pyusb
wx wxpython wxpython
yaml pyyaml pyyaml
zmq pyzmq pyzmq
"""

#: Standard library modules of other Python versions than the one that runs this.
_PAST_AND_FUTURE = """
aifc annotationlib asynchat asyncore audioop binhex cgi cgitb chunk compression crypt distutils formatter imghdr imp
lib2to3 mailcap msilib nis nntplib ossaudiodev parser pipes smtpd sndhdr spwd sunau symbol telnetlib tomllib uu xdrlib
zoneinfo
"""
_OPTIONAL = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")


@dataclass(frozen=True)
class ImportedPackage:
    """A package with its names on conda-forge and PyPI."""

    conda: str
    pypi: str


def _table() -> dict[str, ImportedPackage]:
    known = {name: ImportedPackage(name.replace("_", "-"), name.replace("_", "-")) for name in _SAME.split()}
    for line in _OTHER.strip().splitlines():
        imported, conda, pypi = line.split()
        known[imported] = ImportedPackage(conda, pypi)
    return known


@dataclass(frozen=True)
class Imports:
    """The modules that a script imports from outside the standard library."""

    #: The packages that are certain, in the order of the script.
    packages: tuple[ImportedPackage, ...] = ()
    #: Modules that may come from any package.
    unknown: tuple[str, ...] = ()
    #: Modules whose import may fail: the script catches the error.
    optional: tuple[str, ...] = ()
    #: Why this Python cannot parse the script.
    problem: str | None = None


def find_imports(script: Script) -> Imports:
    """Return the imports of a Python script, without modules next to it and those only for type checking."""
    try:
        tree = ast.parse(script.text)
        modules = dict(_modules(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        return Imports(problem=f"cannot parse the script: {reason}{line}")
    known, standard = _table(), sys.stdlib_module_names | {*_PAST_AND_FUTURE.split(), "__main__"}
    directories = {script.directory, Path(os.path.realpath(script.path)).parent}
    packages: dict[ImportedPackage, None] = {}
    unknown: list[str] = []
    optional: list[str] = []
    for name, needed in modules.items():
        if name in standard or any(_is_local(name, directory) for directory in directories):
            continue
        if not needed:
            optional.append(name)
        elif name in known:
            packages[known[name]] = None
        else:
            unknown.append(name)
    return Imports(tuple(packages), tuple(unknown), tuple(optional))


def _is_local(name: str, directory: Path) -> bool:
    """Return whether a module is next to the script: a file, or a directory with Python files."""
    try:
        if (directory / f"{name}.py").is_file() or any(directory.glob(f"{name}.*.so")):
            return True
        return (directory / name).is_dir() and any((directory / name).rglob("*.py"))
    except (OSError, ValueError):
        return False


def _modules(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield the top-level modules that are imported, each once, and whether the script needs them."""
    needed: dict[str, bool] = {}
    waiting: list[tuple[ast.AST, bool]] = [(tree, True)]
    found: list[tuple[int, int, str, bool]] = []
    while waiting:
        node, must = waiting.pop()
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            assert isinstance(node, (ast.Import, ast.ImportFrom))
            found.append((node.lineno, node.col_offset, name.partition(".")[0], must))
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += [(child, must) for child in node.orelse]
        elif isinstance(node, ast.Try) and any(map(_catches_imports, node.handlers)):
            waiting += [(child, False) for child in (*node.body, *node.handlers, *node.orelse)]
            waiting += [(child, must) for child in node.finalbody]
        else:
            waiting += [(child, must) for child in ast.iter_child_nodes(node)]
    for _, _, name, must in sorted(found, key=lambda item: item[:2]):
        needed[name] = needed.get(name, False) or must
    yield from needed.items()


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in _OPTIONAL for kind in kinds)


_CODING = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*[-_.a-zA-Z0-9]+")


def start_block(document: Document, dialect: str, extra: Sequence[str] = (), *, imports: bool = True) -> Edited:
    """Return the script with a block after its shebang and coding line; ``extra`` are match specs to include.

    With ``imports`` a Python script's block has the packages of its imports that are certain. Raises UsageError if
    there is a block already, if no package is known, and if the dialect does not support the language.
    """
    script = document.script or Script(document.path, document.name, "")
    present = find_block(script)
    if present is not None:
        raise UsageError(
            f"{script.name} already has a block, at line {present.first}",
            code="block-present",
            hint="Change it with `cetool add`, `cetool drop` or `cetool convert`.",
        )
    language = language_of(script)
    if dialect == PEP723 and not language.is_python:
        raise UsageError("PEP 723 blocks are only for Python scripts", hint="Use --dialect conda-script.")
    found = find_imports(script) if language.is_python and imports else Imports()
    wanted, notes = _needs(script, found, dialect, extra)
    if dialect == CONDA_SCRIPT:
        words = choose_program(script, Requirements(wanted.packages, pypi=wanted.pypi)).words
        # an entry point finds its program without env
        by_env = words is not None and words[0].endswith("/env") and len(words) == 2
        command = None if words is None else entrypoint_of(words[1:] if by_env else words)
        wanted = replace(wanted, channels=(DEFAULT_CHANNEL,), entrypoint=command)
        if command is None:
            notes.append('the block has no command to run the script: add entrypoint = "..."')
    new = _inserted(document, script, dialect, wanted, language)
    _verify(new, dialect, wanted)
    return Edited(new, tuple(notes))


def _needs(script: Script, imports: Imports, dialect: str, extra: Sequence[str]) -> tuple[NewBlock, list[str]]:
    """Return the packages for a first block, and sentences about what it omits. Raises UsageError if there are none."""
    for text in extra:
        canonical_spec(text, base_dir=script.directory)
        refuse_secret(text, hint="Do not write secrets into scripts.")
    packages = {package_name(text): text.strip() for text in extra}
    own = language_of(script).package
    conda: dict[str, str] = {own: own} if own is not None else {}
    pypi: list[str] = []
    for package in imports.packages:
        if dialect == PEP723:
            if not {package.conda, package.pypi} & packages.keys():
                pypi.append(package.pypi)
        else:
            conda[package.conda] = package.conda
    conda.update(packages)
    if not conda:
        raise UsageError(
            f"cannot tell which packages {script.name} needs, so no block was written",
            hint="Name them with --with SPEC (`--with bash` for a shell script).",
        )
    return NewBlock(tuple(conda.values()), tuple(pypi)), _left_out(imports)


def _left_out(imports: Imports) -> list[str]:
    notes = []
    if imports.problem:
        notes.append(f"{imports.problem}; no packages were added for its imports")
    if imports.unknown:
        names = ", ".join(imports.unknown)
        notes.append(f"left out imports whose packages are unknown: {names}")
    if imports.optional:
        notes.append(f"left out optional imports, whose failure the script catches: {', '.join(imports.optional)}")
    return notes


def _inserted(document: Document, script: Script, dialect: str, wanted: NewBlock, language: Language) -> Document:
    comment = language.comment
    lines = render(dialect, wanted, comment=comment, base_dir=script.directory)
    at = _place(script, language)
    following = document.line(at)[0] if at < len(document.lines) else ""
    if following.strip():  # a comment that follows must not become part of the block
        lines.append("")
    end = document.ending
    opening = b""
    if at and not document.line(at - 1)[1]:  # only a shebang, without a line end
        opening = end.encode(document.codec)
    new = document.encoded([line + end for line in lines], "the block cannot be encoded in {codec}")
    if opening:
        new = [opening, *new[:-1], new[-1].removesuffix(opening)]  # the file still has none at its end
    return document.spliced(at, at, new)


def _place(script: Script, language: Language) -> int:
    """Return the index of the line before which to put the block: after a shebang, coding line or PHP's opening tag."""
    lines = script.text.split("\n")
    at = 1 if lines[0].startswith("#!") else 0
    if language.comment == "#":
        for index in range(min(2, len(lines))):
            if _CODING.match(lines[index]):
                at = index + 1
    if language.package == "php" and at < len(lines) and lines[at].startswith("<?php"):
        at += 1
    return at


def _verify(document: Document, dialect: str, wanted: NewBlock) -> None:
    """Check that the new block is found and requests what it was written for. Raises NotWrittenError."""
    script = require_script(document)

    def refusal(reason: str) -> NotWrittenError:
        problem = "the new block would be invalid" if reason else "cetool cannot add a block to this file"
        return NotWrittenError(f"{problem}, so nothing was written{reason}", where=script.at())

    _, found = declared_again(document, dialect, refusal)
    needs = Requirements(
        packages=tuple({canonical_spec(text, base_dir=script.directory) for text in wanted.packages}),
        channels=wanted.channels,
        pypi=tuple(canonical_requirement(text, base_dir=script.directory) for text in wanted.pypi),
    )
    if comparable(found) != comparable(found._replace(requirements=needs)):
        raise refusal("")
