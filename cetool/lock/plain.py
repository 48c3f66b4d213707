"""What is locked, in formats that lock less: an ``environment.yml`` and a ``requirements.txt``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cetool.lock.model import LockedPypi, PlatformLock

#: Where files of pypi.org come from: their names and versions are enough to find them again.
_PYPI_FILES = "https://files.pythonhosted.org/"


def write_environment_yml(
    locked: PlatformLock, name: str, channels: Sequence[str], variables: Mapping[str, str]
) -> str:
    """One platform's packages as an ``environment.yml`` (CEP 24), each with version and build.

    ``nodefaults`` keeps the configured channels of the machine that reads it out. Files of PyPI that no index has are
    named by their URL. The digests have no place in the format.
    """
    from cetool.lock.yaml_writer import to_yaml

    dependencies: list[object] = [f"{each.name}={each.version}={each.build}" for each in locked.conda]
    if locked.pypi:
        if not any(each.name == "pip" for each in locked.conda):
            dependencies.append("pip")  # conda warns of a section pip: without it, and adds it
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
    """A name that an environment can have by CEP 24: without slashes, blanks, colons and number signs."""
    allowed = re.sub(r"[/\\\s:#]+", "-", name).strip("-") or "environment"
    return f"{allowed}-environment" if allowed in ("base", "root") else allowed


def write_requirements(locked: PlatformLock) -> str:
    """One platform's PyPI packages as a ``requirements.txt``, each with its digest where all have one.

    pip wants digests of all packages as soon as one has any: commits of repositories have none.
    """
    hashed = all(each.sha256 for each in locked.pypi)
    python = next((each.version for each in locked.conda if each.name == "python"), None)
    head = [f"# platform: {locked.platform}" + (f", python {python}" if python else "")]
    others = len(locked.conda) - (python is not None)
    if others:
        head.append(f"# Not in here: {others} package{'' if others == 1 else 's'} from conda channels.")
    lines = [
        f"{_pinned(each)} \\\n    --hash=sha256:{each.sha256}" if hashed else _pinned(each) for each in locked.pypi
    ]
    return "\n".join([*head, *lines, ""])


def _pinned(package: LockedPypi) -> str:
    if package.url.startswith(_PYPI_FILES):
        return f"{package.name}=={package.version}"
    return f"{package.name} @ {package.url}"
