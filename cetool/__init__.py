"""Run a script in the conda environment that it declares.

The names in ``__all__`` are the library (docs/reference/library.md); each loads its module when it is first
used, so that importing this package is fast.
"""

# without `from __future__` and typing: each would be an import
TYPE_CHECKING = False
if TYPE_CHECKING:
    from cetool.app.library import Environment, ensure, read, resolve, specify
    from cetool.base.errors import (
        CODES,
        CetoolError,
        ConfigError,
        EngineError,
        Location,
        LockError,
        MetadataError,
        ProgramNotFoundError,
        ScriptNotFoundError,
        ScriptNotReadableError,
        StoreError,
        UsageError,
    )
    from cetool.declare.environment import EnvironmentSpec
    from cetool.declare.metadata import ScriptMetadata
    from cetool.declare.package import Package, PypiPackage
    from cetool.declare.requirements import Requirements
    from cetool.engines.protocol import Progress
    from cetool.lock.model import Lock, PlatformLock

__version__ = "0.1.0"

__all__ = [
    "CODES",
    "CetoolError",
    "ConfigError",
    "EngineError",
    "Environment",
    "EnvironmentSpec",
    "Location",
    "Lock",
    "LockError",
    "MetadataError",
    "Package",
    "PlatformLock",
    "ProgramNotFoundError",
    "Progress",
    "PypiPackage",
    "Requirements",
    "ScriptMetadata",
    "ScriptNotFoundError",
    "ScriptNotReadableError",
    "StoreError",
    "UsageError",
    "__version__",
    "ensure",
    "read",
    "resolve",
    "specify",
]

#: Modules of the names that are not errors.
_PLACES = {
    "Environment": "app.library",
    "EnvironmentSpec": "declare.environment",
    "Lock": "lock.model",
    "Package": "declare.package",
    "PlatformLock": "lock.model",
    "Progress": "engines.protocol",
    "PypiPackage": "declare.package",
    "Requirements": "declare.requirements",
    "ScriptMetadata": "declare.metadata",
    "ensure": "app.library",
    "read": "app.library",
    "resolve": "app.library",
    "specify": "app.library",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'cetool' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"cetool.{_PLACES.get(name, 'base.errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
