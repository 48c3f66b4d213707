"""Write YAML that all parsers read alike, and two formats with less detail: ``environment.yml``, ``requirements.txt``.

Programs in many languages read lock files. A string is left unquoted only if it is a string in both YAML 1.1 and 1.2
(``1_0``, ``yes``, ``12e3`` and ``1:30`` are not in one of them); usual dumpers consider only one of the two. Writing
neither sorts nor wraps, so equal values result in equal bytes. ruamel.yaml with explicit quoting writes the same bytes
but takes twenty times as long: 2 s instead of 0.1 s for a lock of 600 packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cetool.base.text import counted
from cetool.declare.package import PypiPackage
from cetool.lock.model import PlatformLock

#: Strings, booleans, integers, and lists and mappings of them.
Value = object

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./+@%&=~()#:-]*", re.ASCII)
_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def to_yaml(document: Mapping[str, Value]) -> str:
    """Return the document in block style."""
    return "".join(f"{line}\n" for line in _mapping(document, ""))


def _mapping(values: Mapping[str, Value], indent: str) -> Iterator[str]:
    for key, value in values.items():
        yield from _entry(f"{indent}{_scalar(key)}:", value, indent)


def _entry(head: str, value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, str):  # most values are, and this check is the fastest
        yield f"{head} {_scalar(value)}"
    elif isinstance(value, Mapping) and value:
        yield head
        yield from _mapping(value, f"{indent}  ")
    elif isinstance(value, Sequence) and value:
        yield head
        for item in value:
            if isinstance(item, Mapping) and item:
                first, *rest = _mapping(item, f"{indent}  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(item)}"
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Value) -> str:
    if not isinstance(value, str):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        return "{}" if isinstance(value, Mapping) else "[]"
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not value.endswith(":"):
        return value
    if _ESCAPED.search(value):
        return f'"{"".join(map(_escaped, value))}"'
    return "'" + value.replace("'", "''") + "'"


def _escaped(char: str) -> str:
    """Return a character as it is written within double quotes."""
    if char in '\\"':
        return f"\\{char}"
    return f"\\u{ord(char):04x}" if _ESCAPED.match(char) else char


#: Files below this URL are on pypi.org: their names and versions are enough to find them again.
_PYPI_FILES = "https://files.pythonhosted.org/"


def write_environment_yml(
    locked: PlatformLock, name: str, channels: Sequence[str], variables: Mapping[str, str]
) -> str:
    """Return one platform's packages as an ``environment.yml`` (CEP 24), each with version and build.

    ``nodefaults`` excludes the configured channels of the machine that reads the file. Files that are not on pypi.org
    are given by their URLs. The format cannot contain digests.
    """

    dependencies: list[object] = [f"{each.name}={each.version}={each.build}" for each in locked.conda]
    if locked.pypi:
        if not any(each.name == "pip" for each in locked.conda):
            dependencies.append("pip")  # without it, conda warns about the section pip: and adds it
        dependencies.append({"pip": [_pinned(each) for each in locked.pypi]})
    document: dict[str, object] = {
        "name": _environment_name(name),
        "channels": [*channels, "nodefaults"],
        "dependencies": dependencies,
    }
    if variables:
        document["variables"] = dict(variables)
    return f"# platform: {locked.platform}\n{to_yaml(document)}"


def _environment_name(name: str) -> str:
    """Return a valid environment name (CEP 24): without slashes, spaces, colons and number signs."""
    allowed = re.sub(r"[/\\\s:#]+", "-", name).strip("-") or "environment"
    return f"{allowed}-environment" if allowed in ("base", "root") else allowed


def write_requirements(locked: PlatformLock) -> str:
    """Return one platform's PyPI packages as a ``requirements.txt``, with digests if all packages have one.

    pip requires a digest for every package if one package has a digest; commits of repositories have none.
    """
    hashed = all(each.sha256 for each in locked.pypi)
    python = next((each.version for each in locked.conda if each.name == "python"), None)
    head = [f"# platform: {locked.platform}" + (f", python {python}" if python else "")]
    others = len(locked.conda) - (python is not None)
    if others:
        head.append(f"# Not included: {counted(others, 'package')} from conda channels.")
    lines = [
        f"{_pinned(each)} \\\n    --hash=sha256:{each.sha256}" if hashed else _pinned(each) for each in locked.pypi
    ]
    return "\n".join([*head, *lines, ""])


def _pinned(package: PypiPackage) -> str:
    if package.url.startswith(_PYPI_FILES):
        return f"{package.name}=={package.version}"
    return f"{package.name} @ {package.url}"
