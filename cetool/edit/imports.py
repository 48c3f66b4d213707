"""From what a Python script imports to the packages that it comes from, where there is no doubt about it."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cetool.declare.source import Script

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

# Imported by another name: import, conda-forge's name, PyPI's.
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

#: Names of the standard library that some Python has and the one that runs this may not.
_PAST_AND_FUTURE = """
aifc annotationlib asynchat asyncore audioop binhex cgi cgitb chunk compression crypt distutils formatter imghdr imp
lib2to3 mailcap msilib nis nntplib ossaudiodev parser pipes smtpd sndhdr spwd sunau symbol telnetlib tomllib uu xdrlib
zoneinfo
"""
_OPTIONAL = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")


@dataclass(frozen=True)
class Package:
    """A package by the names that conda-forge and PyPI know it by."""

    conda: str
    pypi: str


def _table() -> dict[str, Package]:
    known = {name: Package(name.replace("_", "-"), name.replace("_", "-")) for name in _SAME.split()}
    for line in _OTHER.strip().splitlines():
        imported, conda, pypi = line.split()
        known[imported] = Package(conda, pypi)
    return known


@dataclass(frozen=True)
class Imports:
    """What a script imports from outside the standard library.

    ``packages`` are those about which there is no doubt, in the order in which they are met; ``unknown`` modules may
    come from any package; ``optional`` ones are imported where a failure is caught. ``problem`` says why nothing was
    found out, where the script is not what this Python understands.
    """

    packages: tuple[Package, ...] = ()
    unknown: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    problem: str | None = None


def find_imports(script: Script) -> Imports:
    """The imports of a Python script. Modules beside it, and those only needed for type checking, are left out."""
    try:
        tree = ast.parse(script.text)
        modules = dict(_modules(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        return Imports(problem=f"its imports cannot be read: {reason}{line}")
    known, standard = _table(), sys.stdlib_module_names | {*_PAST_AND_FUTURE.split(), "__main__"}
    directories = {script.directory, Path(os.path.realpath(script.path)).parent}
    packages: dict[Package, None] = {}
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
    """Whether a module lies beside the script, as a file or as a directory with Python files in it."""
    try:
        if (directory / f"{name}.py").is_file() or any(directory.glob(f"{name}.*.so")):
            return True
        return (directory / name).is_dir() and any((directory / name).rglob("*.py"))
    except (OSError, ValueError):
        return False


def _modules(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """The top modules that are imported, each once, and whether the script needs them."""
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
