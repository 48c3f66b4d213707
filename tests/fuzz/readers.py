"""Every reader of files that other programs can write, with a valid file of each kind, for ``test_limits.py``.

A reader gets a directory in which its file is, and may raise nothing but a :class:`CetoolError`: a sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cetool.base.errors import CetoolError, EngineError
from cetool.base.limits import PACKAGE
from cetool.base.values import Value
from cetool.declare.environment import NAME_LENGTH

_SHA = "0" * 64
_URL = "https://conda.anaconda.org/conda-forge/noarch/six-1.16.0-pyh6c4a22f_0.conda"
_CONDA_LOCK = f"""version: 1
metadata:
  content_hash: {{linux-64: {_SHA}}}
  channels:
  - url: conda-forge
    used_env_vars: []
  platforms: [linux-64]
  sources: [a.py]
  custom_metadata: {{created_by: x, cetool_request: {_SHA}}}
package:
- name: six
  version: 1.16.0
  manager: conda
  platform: linux-64
  dependencies: {{python: '>=3'}}
  url: {_URL}
  hash: {{md5: {_SHA[:32]}, sha256: {_SHA}}}
  category: main
  optional: false
- name: idna
  version: '3.4'
  manager: pip
  platform: linux-64
  dependencies: {{}}
  url: https://files.pythonhosted.org/packages/idna-3.4-py3-none-any.whl
  hash: {{sha256: {_SHA}}}
"""
_PIXI_LOCK = f"""version: 6
environments:
  default:
    channels:
    - url: https://conda.anaconda.org/conda-forge/
    indexes:
    - https://pypi.org/simple
    packages:
      linux-64:
      - conda: {_URL}
      - pypi: https://files.pythonhosted.org/packages/idna-3.4-py3-none-any.whl
packages:
- conda: {_URL}
  sha256: {_SHA}
  md5: {_SHA[:32]}
  depends:
  - python
  size: 14259
- pypi: https://files.pythonhosted.org/packages/idna-3.4-py3-none-any.whl
  name: idna
  version: '3.4'
  sha256: {_SHA}
  requires_dist:
  - six>=1 ; extra == 'x'
"""
_EXPLICIT = f"# platform: linux-64\n@EXPLICIT\n{_URL}#{_SHA[:32]}\n{_URL.replace('six', 'seven')}#sha256:{_SHA}\n"
_ENVIRONMENT = "name: a\nchannels: [conda-forge]\ndependencies:\n  - python >=3.9\n  - pip\n  - pip:\n    - six>=1\n"
_ENVIRONMENT += "variables: {A: b}\nplatforms:\n  - linux-64\n"
_REQUIREMENTS = "# a\nsix>=1 ; python_version > '3'\n--index-url https://h/simple\nidna==3.4 \\\n  --hash=sha256:"
_REQUIREMENTS += f"{_SHA}\nb @ https://h/b-1-py3-none-any.whl\n--no-binary :all:\n"
_SETTINGS = (
    "engine: rattler\nchannels: [conda-forge, bioconda]\nmax-size: 20GB\nremove-if-unused-for: 25\noffline: false\n"
)
_CONDARC = "channels:\n  - conda-forge\nchannel_alias: https://x.org\ncustom_channels: {a: https://h/b}\n"
_CONDARC += "ssl_verify: true\nremote_max_retries: 3\npkgs_dirs: [/tmp/a]\nconda-execute:\n  offline: true\n"
_RECIPE = "name: a\nbase: /opt/base\noverlay:\n  - six>=1\nconda:\n  - numpy\nchannels: [conda-forge]\n"
_CELL = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": 1}
_CELLS = [{**_CELL, "source": ["# conda execute\n", "# env:\n", "#  - python >=3\n", "print()"]}]
_NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}},
    "cells": [*_CELLS, {"cell_type": "markdown", "metadata": {}, "source": "text"}],
}
_OLD_NOTEBOOK = {
    **{"nbformat": 3, "metadata": {"conda-execute": {"env": ["python >=3", "six"], "channels": ["a"]}}},
    "worksheets": [{"cells": [{"cell_type": "code", "input": "print()", "outputs": []}]}],
}
_SPEC: dict[str, Any] = {
    **{"packages": ["six"], "channels": ["conda-forge"], "pypi": [], "variables": {"A": "b"}},
}
_FILES = [{"_path": "lib/a.py", "path_type": "hardlink", "sha256": _SHA, "size_in_bytes": 3, "sha256_in_prefix": _SHA}]
_PACKAGE = {
    **{"name": "six", "version": "1.16.0", "build": "0", "build_number": 0, "subdir": "noarch", "noarch": "python"},
    **{"url": _URL, "sha256": _SHA, "md5": _SHA[:32], "size": 14259, "depends": ["python >=3"], "constrains": ["b"]},
    **{"files": ["lib/a.py"], "paths_data": {"paths_version": 1, "paths": _FILES}, "channel": "conda-forge"},
    **{"link": {"source": "/nowhere/pkgs/six", "type": 1}, "fn": "six-1.16.0-0.conda", "license": "MIT"},
    **{"extracted_package_dir": "/nowhere/pkgs/six", "requested_spec": "six", "timestamp": 1},
}
_KERNEL_SOURCE = {
    **{
        "schema": "cetool.kernel/1",
        "language": "python",
        "script": "/a.py",
        "specs": ["six"],
        "with": [],
        "channels": [],
    },
    "env_file": None,
}
_KERNEL = {
    **{
        "argv": ["python", "-m", "x", "{connection_file}"],
        "display_name": "P",
        "language": "python",
        "env": {"A": "b"},
    },
    "metadata": {"cetool": _KERNEL_SOURCE, "debugger": True},
}


class Reader(Value):
    """A reader: the relative path of its file, valid contents, and a function that reads it, given the directory."""

    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]


def check(reader: Reader, directory: Path) -> bool:
    """Read the file; return False for a proper error. Any other exception is a bug."""
    try:
        reader.read(directory)
    except CetoolError as error:
        assert error.message.strip() and "Traceback" not in error.message, error.message[:1000]
        assert len(error.message) < 3000, error.message[:1000]
        assert error.exit_status in (2, 125, 126, 127)
        str(error).encode("utf-8", "backslashreplace")
        return False
    return True


def _bytes(*documents: object) -> tuple[bytes, ...]:
    return tuple(
        text.encode() if isinstance(text, str) else json.dumps(text, indent=1, ensure_ascii=False).encode()
        for text in documents
    )


def _environ(directory: Path) -> dict[str, str]:
    return {"HOME": str(directory), "CETOOL_CACHE_DIR": str(directory / "cache"), "PATH": os.defpath}


def _private(path: Path) -> None:
    """Make the file as cetool and users do; a device at the end of a link is unchanged."""
    if stat.S_ISREG(path.lstat().st_mode):
        path.chmod(0o600)


def _lock(directory: Path) -> object:
    from cetool.lock.find import open_lock

    found = open_lock(directory / "a.lock")
    return [locked.digest for locked in found.lock.platforms]


def _embedded(directory: Path) -> object:
    from cetool.declare.source import read_script
    from cetool.lock.find import find_lock

    return find_lock(read_script(directory / "a.py"))


def _embedded_seed() -> bytes:
    from cetool.edit.document import text_document
    from cetool.lock.embedded import embed
    from cetool.lock.find import lock_in

    lock, _ = lock_in(_EXPLICIT.encode(), Path("/nowhere/a.lock"), "a.lock")
    document = text_document(Path("/nowhere/a.py"), "a.py", "# conda execute\n# env: [six]\nprint()\n")
    return b"".join(embed(document, lock).lines)


def _notebook(directory: Path) -> object:
    from cetool.declare.dialects.notebook import read_notebook_metadata
    from cetool.declare.source import read_script

    return read_notebook_metadata(read_script(directory / "a.ipynb"))


def _settings(directory: Path) -> object:
    from cetool.settings.settings import load_settings

    return load_settings(_environ(directory))


def _environment(name: str) -> Callable[[Path], object]:
    def read(directory: Path) -> object:
        from cetool.declare.dialects.environment_yml import read_environment_file
        from cetool.declare.environment import EnvironmentSpec

        return EnvironmentSpec.of(read_environment_file(directory / name)).name

    return read


def _pip_line(line: str) -> Callable[[Path], object]:
    def read(directory: Path) -> object:
        (directory / "environment.yml").write_text(f"dependencies: [python, pip, {{pip: [{line}]}}]\n")
        return _environment("environment.yml")(directory)

    return read


def _record(directory: Path) -> object:
    from cetool.provenance.record import read_record

    record = read_record(str(directory / "a.json"))
    return record.asked.name, record.lock.digest


def _record_seed() -> dict[str, Any]:
    conda = {"name": "six", "version": "1", "build": "0", "subdir": "noarch", "url": _URL, "sha256": _SHA}
    script = {"name": "a", "given": "a", "path": None, "url": None, "sha256": _SHA, "size": 1, "text": None}
    return {
        **{"schema": "cetool.record/1", "script": {**script, "base64": None}, "arguments": ["x"]},
        **{"arguments_redacted": False, "working_directory": "/", "dialect": "script", "run_with": ["python"]},
        **{"entrypoint": None, "activate": False, "environment": {"spec": _spec(), "name": "a", "prefix": "/a"}},
        **{"platform": "linux-64", "packages": [{**conda, "md5": None, "size": 3, "depends": [], "constrains": []}]},
        **{"pypi_packages": [], "engine": {"name": "rattler", "version": "1"}, "cetool": "1"},
        **{"virtual_packages": {}, "host": {}, "variables": {}, "start": "2026-01-01T00:00:00Z", "end": "x"},
        **{"seconds": 1.5, "exit_status": 0, "signal": None},
    }


def _spec() -> dict[str, Any]:
    from cetool.declare.environment import EnvironmentSpec, Solve

    return EnvironmentSpec(Solve(("six",)), channels=("conda-forge",), variables=(("A", "b"),)).as_dict()


def _marker(directory: Path) -> object:
    from cetool.store.store import is_marked, read_marker, valid_marker

    is_marked(directory)
    valid_marker(directory)
    marker = read_marker(directory)
    return marker and marker.spec.name


def _marker_seed() -> dict[str, Any]:
    about = {"name": "a", "prefix": "/nowhere", "subdir": "linux-64", "engine": "rattler", "engine_version": "1"}
    return {
        "schema": 1,
        **about,
        "spec": _spec(),
        "created": 1.5,
        "seconds": 2,
        "packages": 1,
        "size": 3,
        "cetool": "1",
    }


def _launch_record(directory: Path) -> object:
    from cetool import warm

    _private(directory / "record")
    folder = os.open(directory, os.O_RDONLY)
    try:
        return warm.read_record(b"record", folder)
    except (OSError, ValueError, IndexError):  # `launch` ignores the record
        return None
    finally:
        os.close(folder)


def _launch_seed() -> bytes:
    from cetool import warm

    record = warm.Record()
    for number, name in enumerate(warm.Record.__slots__):
        setattr(record, name, b"x" if number < 16 else [b"a", b"b"])
    return warm.pack_record(record)


def _failure(directory: Path) -> object:
    from cetool.store.making import raise_failure_since

    try:
        raise_failure_since(directory, "a", 0)
    except EngineError as error:
        return f"{error} {error.hint} {error.log}"
    return None


def _trusted(directory: Path) -> object:
    from cetool.store.keyed import TrustStore

    directory.chmod(0o700)
    _private(directory / f"{_SHA}.json")
    return TrustStore(directory).all()


def _copy(directory: Path) -> object:
    from cetool.store.keyed import CopyStore

    directory.chmod(0o700)
    return CopyStore(directory).find(_SHA)


def _copy_seed() -> bytes:
    from cetool.base.codec import sha256_of

    head = {
        "schema": "cetool.copy/1",
        "url": "https://h/a",
        "address": "https://h/a",
        "name": "a",
        "sha256": sha256_of(b"x"),
    }
    return json.dumps({**head, "checked": 1.0, "etag": None, "modified": "x"}).encode() + b"\nx"


def _recipe(directory: Path) -> object:
    from cetool.overlays.recipe import read_recipe_file

    return read_recipe_file(directory / "a.yml", "a")


def _named_overlay(directory: Path) -> object:
    from cetool.overlays.store import Overlays
    from cetool.settings.paths import resolve_paths

    for place in (directory, directory / "cache", directory / "cache/overlays", directory / "cache/overlays/.named"):
        place.chmod(0o700)
    return Overlays(resolve_paths(_environ(directory))).named()


def _about(directory: Path) -> object:
    from cetool.overlays.about import read_about

    return read_about(directory)


def _kernel(directory: Path) -> object:
    from cetool.launch.kernels import installed_kernels, kernels_of

    return [*kernels_of(directory), *installed_kernels([directory / "share/jupyter/kernels"])]


def _package(directory: Path) -> object:
    from cetool.engines.rattler.prefix import records_of
    from cetool.launch.tools import programs_of
    from cetool.lock.records import read_installed
    from cetool.packages.differences import verify_files
    from cetool.packages.integrity import check_complete

    (directory / "conda-meta" / "history").write_text("+noarch::six-1.16.0-0\n")
    (directory / "conda-meta" / "cetool").write_text("")
    programs_of(directory, ["six"])
    reads: tuple[Callable[[], object], ...] = (
        lambda: check_complete(directory),
        lambda: read_installed(directory, "linux-64").lock.digest,
        lambda: records_of(directory),
        lambda: _versions(directory),
    )
    for read in reads:
        with contextlib.suppress(CetoolError):
            read()
    return verify_files(directory, directory / "conda-meta" / "cetool", 1)


def _versions(directory: Path) -> object:
    from cetool.packages.distributions import distributions_of
    from cetool.packages.prefix import read_records

    return [distributions_of(record) for record in read_records(directory)]


def _unpacked(directory: Path) -> object:
    from cetool.declare.package import Package
    from cetool.engines.archives import check_unpacked
    from cetool.packages.integrity import damaged_files, is_damaged

    is_damaged(directory)
    damaged_files(directory)
    index = {"name": "six", "version": "1.16.0", "build": "pyh6c4a22f_0"}
    (directory / "info" / "index.json").write_text(json.dumps(index))
    check_unpacked(directory, Package.from_line(_URL))
    return index


def _noted(directory: Path) -> object:
    from cetool.packages.distributions import read_origins

    return sorted(each.line for each in read_origins(directory).values())


def _state(directory: Path) -> object:
    from cetool.warm.environ import read_variables

    try:
        return read_variables(str(directory / "state"))
    except (OSError, ValueError):  # the environment is activated without it, with a warning
        return None


def _netrc(directory: Path) -> object:
    from cetool.fetch.addresses import authorization, parse_address

    _private(directory / ".netrc")
    return authorization(parse_address("https://host/a.py"), _environ(directory))


def _uses(directory: Path) -> object:
    from cetool.store.usage_files import all_files, read_uses

    return [use for path in all_files(directory) for use in read_uses(path)]


def _history(directory: Path) -> object:
    from cetool.packages.differences import linked_packages

    return linked_packages(directory)


def _report(directory: Path) -> object:
    from cetool.base.limits import read_regular
    from cetool.engines.pypi.answers import NOT_UNDERSTOOD, read_report

    try:
        return read_report(read_regular(directory / "report.json", PACKAGE))
    except NOT_UNDERSTOOD:
        return None


READERS: dict[str, Reader] = {
    "conda-lock": Reader("a.lock", _bytes(_CONDA_LOCK), _lock),
    "pixi-lock": Reader("a.lock", _bytes(_PIXI_LOCK), _lock),
    "explicit": Reader("a.lock", _bytes(_EXPLICIT), _lock),
    "embedded-lock": Reader("a.py", (_embedded_seed(),), _embedded),
    "notebook": Reader("a.ipynb", _bytes(_NOTEBOOK, _OLD_NOTEBOOK), _notebook),
    "config.yaml": Reader(".config/cetool/config.yaml", _bytes(_SETTINGS), _settings),
    "condarc": Reader(".condarc", _bytes(_CONDARC), _settings),
    "environment.yml": Reader("environment.yml", _bytes(_ENVIRONMENT), _environment("environment.yml")),
    "specs.txt": Reader("specs.txt", _bytes("python >=3.9\n# comment\nsix==1.16.0\n"), _environment("specs.txt")),
    "requirements.txt": Reader("requirements.txt", _bytes(_REQUIREMENTS), _pip_line("-r requirements.txt")),
    "pyproject.toml": Reader("a/pyproject.toml", _bytes('[project]\nname = "six"\n'), _pip_line("./a")),
    "setup.cfg": Reader("a/setup.cfg", _bytes("[metadata]\nname = six\nversion: 1\n"), _pip_line("./a")),
    "record": Reader("a.json", _bytes(_record_seed()), _record),
    "marker": Reader("conda-meta/cetool", _bytes(_marker_seed()), _marker),
    "launch-record": Reader("record", (_launch_seed(),), _launch_record),
    "failure": Reader("a.failed", _bytes({"time": 1.5, "message": "m", "hint": None, "log": "/a"}), _failure),
    "trust": Reader(
        f"{_SHA}.json",
        _bytes(
            {
                "schema": "cetool.trusted/2",
                "sha256": _SHA,
                "url": "https://h",
                "date": 1.5,
                "how": "x",
                "places": ["/a"],
            }
        ),
        _trusted,
    ),
    "copy": Reader(_SHA, (_copy_seed(),), _copy),
    "recipe": Reader("a.yml", _bytes(_RECIPE), _recipe),
    "named-overlay": Reader(
        "cache/overlays/.named/a.json",
        _bytes(
            {
                **{"schema": 1, "name": "a", "base": "/b", "overlay": ["six"], "conda": [], "channels": None},
                **{"created": 1.5, "directory": "/c"},
            }
        ),
        _named_overlay,
    ),
    "about-overlay": Reader(
        "conda-meta/overlay",
        _bytes(
            {
                **{"schema": 1, "base": "/b", "python": "3.12.1", "fingerprint": {"conda": ["a"], "python": ["b"]}},
                "layers": [
                    {"name": "six", "version": "1", "kind": "pypi", "shadows": None, "why": None, "source": None}
                ],
            }
        ),
        _about,
    ),
    "kernel": Reader("share/jupyter/kernels/a/kernel.json", _bytes(_KERNEL), _kernel),
    "package-record": Reader("conda-meta/six-1.16.0-0.json", _bytes(_PACKAGE), _package),
    "paths.json": Reader("info/paths.json", _bytes({"paths": _FILES, "paths_version": 1}), _unpacked),
    "link.json": Reader(
        "info/link.json", _bytes({"noarch": {"type": "python", "entry_points": ["a = b:c"]}}), _unpacked
    ),
    "origins": Reader(
        "conda-meta/cetool-pypi",
        _bytes({"schema": 1, "packages": [{"name": "six", "version": "1", "url": "https://h/a.whl", "sha256": _SHA}]}),
        _noted,
    ),
    "state": Reader("state", _bytes({"version": 1, "env_vars": {"A": "b", "C": None}}), _state),
    "netrc": Reader(".netrc", _bytes("machine host login a password b\ndefault login c password d\n"), _netrc),
    "uses": Reader("uses.1.taken", _bytes("1\t2\t3\thost\t" + "a" * NAME_LENGTH + "\t/s.py\n"), _uses),
    "history": Reader("conda-meta/history", _bytes("==> 2026 <==\n+noarch::six-1.16.0-0\n"), _history),
    "report": Reader(
        "report.json",
        _bytes(
            {
                "install": [
                    {
                        **{"is_direct": False, "metadata": {"name": "six", "version": "1"}},
                        "download_info": {"url": "https://h/six-1.whl", "archive_info": {"hashes": {"sha256": _SHA}}},
                    }
                ]
            }
        ),
        _report,
    ),
}
