"""What conda brings of Python distributions, shown to uv as an index: each in its one version, which needs nothing."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cetool.base.text import normalized
from cetool.declare.package import Package
from cetool.declare.pypi import PypiSettings
from cetool.engines.pypi.files import write_private

#: Conda packages whose Python distributions have another name than they.
DISTRIBUTIONS = {
    "matplotlib-base": "matplotlib",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "msgpack-python": "msgpack",
    "python-graphviz": "graphviz",
    "py-opencv": "opencv-python",
    "tensorflow-base": "tensorflow",
    "python-kaleido": "kaleido",
    "brotli-python": "brotli",
    "py-xgboost": "xgboost",
    "dask-core": "dask",
    "python-tzdata": "tzdata",
}


def distributions_of(conda: tuple[Package, ...]) -> dict[str, str]:
    """The Python distributions that conda packages bring, as far as their records tell: normalised name to version."""
    from packaging.version import InvalidVersion, Version

    found: dict[str, str] = {}
    for package in conda:
        if not any(re.match(r"python(?:\s|$)", spec) for spec in package.depends):
            continue
        try:
            Version(package.version)
        except InvalidVersion:
            continue  # no distribution can have it
        found[DISTRIBUTIONS.get(package.name, normalized(package.name))] = package.version
    return dict(sorted(found.items()))


def write_stubs(directory: Path, installed: Mapping[str, str], settings: PypiSettings) -> tuple[str, ...]:
    """An index (PEP 503) that has each distribution of conda's in its one version, which needs nothing.

    Returns the options that name it. Without an index (``no-index``) it is a directory of files instead; where nothing
    but sources counts (``no-binary``) the files are such, of which nothing has to be built.
    """
    directory.mkdir()
    named = settings.named
    for name, version in installed.items():
        stem = f"{name.replace('-', '_')}-{version}"
        place = directory if named.get("no-index") else directory / name
        place.mkdir(exist_ok=True)
        sources = named.get("no-binary") or name in named.get("no-binary-package", ())
        file = _stub_sources(place, stem, name, version) if sources else _stub_wheel(place, stem, name, version)
        if place != directory:
            link = f'<a href="{file}">{file}</a>'
            write_private(place / "index.html", f"<!DOCTYPE html><html><body>{link}</body></html>")
    return ("--find-links", str(directory)) if named.get("no-index") else ("--index", directory.as_uri())


def _stub_wheel(place: Path, stem: str, name: str, version: str) -> str:
    file = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(place / file, "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return file


def _stub_sources(place: Path, stem: str, name: str, version: str) -> str:
    file = f"{stem}.tar.gz"
    texts = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "{version}"\n',
    }
    with tarfile.open(place / file, "w:gz") as archive:
        for inner, text in texts.items():
            info = tarfile.TarInfo(f"{stem}/{inner}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return file
