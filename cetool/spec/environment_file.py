"""Files that list what an environment needs: ``environment.yml`` (CEP 24), and texts of one match spec a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cetool.errors import Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.spec.conda_execute import read_packages, read_variables
from cetool.spec.environment import Ignored, Requirements
from cetool.spec.matchspecs import canonical_spec
from cetool.spec.nodes import Node, channels_of, ends_channels, nearest, shorten
from cetool.spec.source import decode, printable, read_bytes
from cetool.spec.yaml_reader import parse_yaml

#: CEP 24's keys.
KEYS = ("name", "prefix", "channels", "dependencies", "variables")
#: Bytes that such a file may have.
MAX_SIZE = 1024 * 1024


def read_environment_file(path: str | os.PathLike[str]) -> Requirements:
    """What the file asks for; relative channels and paths start from its directory.

    A name that ends in ``.yml`` or ``.yaml`` means YAML, any other one match spec a line. Raises MetadataError.
    """
    given = os.fspath(path)
    name = printable(given)
    try:
        data = read_bytes(given, name, "environment file")
    except (ScriptNotFoundError, ScriptNotReadableError) as error:
        # 126 and 127 are about the script itself
        raise MetadataError(error.message, where=error.where, hint=error.hint) from None
    if len(data) > MAX_SIZE:
        raise MetadataError(f"the environment file is larger than {MAX_SIZE // 1024} KiB", where=Location(name))
    text = decode(data, name)
    directory = Path(given).absolute().parent
    if given.lower().endswith((".yml", ".yaml")):
        return _read_yaml(text, name, directory)
    return _read_lines(text, name, directory)


def _read_yaml(text: str, name: str, directory: Path) -> Requirements:
    root = parse_yaml(text, name=name)
    if root is None or root.kind == "nothing":
        raise MetadataError("the environment file says nothing", where=Location(name), hint="Add `dependencies:`.")
    keys = root.as_mapping("the environment file")
    packages, pypi = read_packages(keys.get("dependencies"), "dependencies", directory)
    if not packages and not pypi:
        raise MetadataError("the environment file has no dependencies", where=Location(name))
    channels = channels_of(keys.get("channels"), directory)
    return Requirements(
        packages=packages,
        channels=channels,
        configured=channels is not None and not ends_channels(keys["channels"]),
        pypi=pypi,
        variables=read_variables(keys.get("variables")),
        warnings=tuple(_ignored(keys)),
    )


def _ignored(keys: Mapping[str, Node]) -> Iterator[Ignored]:
    """What the file says and cetool has no use for."""
    for key, node in keys.items():
        if key == "prefix":
            yield Ignored("'prefix' is ignored: cetool decides where environments are", node.where)
        elif key not in KEYS:
            yield Ignored(f"cetool ignores the key {shorten(key)!r}{_meant(key)}", node.where)


def _meant(key: str) -> str:
    """The question whether another key was meant: CEP 24 has unknown ones ignored, misspelt ones too."""
    meant = nearest(key, KEYS)
    return f". {meant}" if meant.startswith("Did") else ""


def _read_lines(text: str, name: str, directory: Path) -> Requirements:
    packages = []
    for number, line in enumerate(text.split("\n"), start=1):
        spec = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not spec:
            continue
        where = Location(name, number)
        if spec.startswith("@EXPLICIT"):
            raise MetadataError(
                "this is an explicit list of package files (@EXPLICIT), which is not supported",
                where=where,
                hint="Give match specs, one a line, or an environment.yml.",
            )
        packages.append(canonical_spec(spec, where=where, base_dir=directory))
    if not packages:
        raise MetadataError("the file names no packages", where=Location(name), hint="Write one match spec a line.")
    return Requirements(packages=tuple(packages))
