"""conda-store's settings by level: those that mean something here are cetool's own settings under another name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Body, Query, Response
from pydantic import TypeAdapter, ValidationError

from cetool.server.access import Principal, is_name
from cetool.server.data import namespaces
from cetool.server.server import Server
from cetool.server.web.conda_store.forms import Here, Route, Who, ok, permit, refusal

router = APIRouter(route_class=Route)
#: Seconds that ``GET /specification/`` may take, unless the setting ``conda_max_solve_time`` says otherwise.
SOLVE_TIME = 300


@dataclass(frozen=True, slots=True)
class Known:
    """A setting of conda-store."""

    kind: type
    #: What it is for a server, if no level sets it.
    default: Callable[[Server], Any]
    #: The key under which it is stored; None if it cannot be changed, since it has no meaning here.
    key: str | None = None
    #: Whether it is one for the whole server.
    everywhere: bool = False


def _channels(name: str) -> Callable[[Server], list[str]]:
    return lambda server: list(getattr(server.config, name) or ())


_TEXTS = list[str]
KNOWN: dict[str, Known] = {
    "default_namespace": Known(str, lambda server: server.config.default_namespace, None, True),
    "filesystem_namespace": Known(str, lambda server: "filesystem", None, True),
    "default_uid": Known(int, lambda server: None, None, True),
    "default_gid": Known(int, lambda server: None, None, True),
    "default_permissions": Known(str, lambda server: None, None, True),
    "storage_threshold": Known(int, lambda server: server.config.storage_threshold or 0, None, True),
    "conda_command": Known(str, lambda server: "cetool", None, True),
    "conda_platforms": Known(_TEXTS, lambda server: ["noarch", server.world.platform], None, True),
    "conda_max_solve_time": Known(int, lambda server: SOLVE_TIME, "conda_max_solve_time", True),
    "conda_indexed_channels": Known(_TEXTS, _channels("channels_default"), None, True),
    "build_artifacts_kept_on_deletion": Known(_TEXTS, lambda server: ["LOGS", "LOCKFILE", "YAML"], None, True),
    "conda_solve_platforms": Known(
        _TEXTS, lambda server: list(server.config.default_platforms or (server.world.platform,))
    ),
    "conda_channel_alias": Known(str, lambda server: "https://conda.anaconda.org"),
    "conda_default_channels": Known(_TEXTS, _channels("channels_default"), "channels-default"),
    "conda_allowed_channels": Known(_TEXTS, _channels("channels_allowed"), "channels-allowed"),
    "conda_default_packages": Known(_TEXTS, _channels("packages_default"), "packages-default"),
    "conda_required_packages": Known(_TEXTS, lambda server: []),
    "conda_included_packages": Known(_TEXTS, _channels("packages_required"), "packages-required"),
    "pypi_default_packages": Known(_TEXTS, lambda server: []),
    "pypi_required_packages": Known(_TEXTS, lambda server: []),
    "pypi_included_packages": Known(_TEXTS, lambda server: []),
    "build_artifacts": Known(_TEXTS, lambda server: ["LOCKFILE", "YAML", "CONDA_PACK"]),
}

Namespace = Annotated[str | None, Query()]
Data = Annotated[dict[str, Any], Body()]


@router.get("/api/v1/setting/")
def get_settings(here: Here, who: Who, namespace: Namespace = None, environment_name: Namespace = None) -> Response:
    """Return the settings that hold for the server, a namespace or an environment."""
    return _answer(here, who, namespace, environment_name)


@router.get("/api/v1/setting/{namespace}/")
def get_namespace_settings(here: Here, who: Who, namespace: str, environment_name: Namespace = None) -> Response:
    """Return the settings that hold for a namespace."""
    return _answer(here, who, namespace, environment_name)


@router.get("/api/v1/setting/{namespace}/{environment_name}/")
def get_environment_settings(here: Here, who: Who, namespace: str, environment_name: str) -> Response:
    """Return the settings that hold for an environment."""
    return _answer(here, who, namespace, environment_name)


@router.put("/api/v1/setting/")
def put_settings(
    here: Here, who: Who, data: Data, namespace: Namespace = None, environment_name: Namespace = None
) -> Response:
    """Change settings."""
    return _change(here, who, data, (namespace, environment_name))


@router.put("/api/v1/setting/{namespace}/")
def put_namespace_settings(
    here: Here, who: Who, data: Data, namespace: str, environment_name: Namespace = None
) -> Response:
    """Change settings of a namespace."""
    return _change(here, who, data, (namespace, environment_name))


@router.put("/api/v1/setting/{namespace}/{environment_name}/")
def put_environment_settings(here: Here, who: Who, data: Data, namespace: str, environment_name: str) -> Response:
    """Change settings of an environment."""
    return _change(here, who, data, (namespace, environment_name))


def effective(here: Server, tx: sa.Connection, namespace: str = "", name: str = "") -> dict[str, Any]:
    """Return all settings that hold at a level."""
    stored = namespaces.settings(tx, namespace, name)
    found = {}
    for key, known in KNOWN.items():
        own = stored.get(known.key) if known.key is not None else None
        found[key] = known.default(here) if own is None else own
    return found


def _answer(here: Server, who: Principal, namespace: str | None, name: str | None) -> Response:
    _permit(who, "setting::read", namespace, name)
    with here.database.read() as tx:
        return ok(effective(here, tx, namespace or "", name or ""))


def _permit(who: Principal, permission: str, namespace: str | None, name: str | None) -> None:
    if namespace is None and name is not None:
        raise refusal(f"Environment {name[:300]} is set without a namespace. Please specify a namespace.")
    if not all(is_name(each) for each in (namespace, name) if each is not None):
        raise refusal("the name of a namespace or environment is invalid")
    permit(who, permission, namespace or "*", name or "*")


def _change(here: Server, who: Principal, data: dict[str, Any], level: tuple[str | None, str | None]) -> Response:
    _permit(who, "setting::update", *level)
    unknown = set(data) - set(KNOWN)
    if unknown:
        raise refusal(f"Invalid setting keys {set(map(_short, unknown))}")
    for key, value in data.items():
        _check(key, value, everywhere=level == (None, None))
    place = namespaces.level_of(level[0] or "", level[1] or "")
    with here.database.write() as tx:
        for key, value in data.items():
            stored = KNOWN[key].key
            assert stored is not None
            # no allowed channels are all channels
            empty = key == "conda_allowed_channels" and not value
            namespaces.set_setting(tx, place, stored, None if empty else value)
    return ok(None, f"global setting keys {list(data)} updated")


def _short(text: str) -> str:
    return text[:100]


def _check(key: str, value: Any, *, everywhere: bool) -> None:
    """Raise CetoolError, with conda-store's words, for a value that cannot be set."""
    known = KNOWN[key]
    if known.everywhere and not everywhere:
        raise refusal(f"Setting {key} is a global setting and cannot be set within a namespace or environment")
    try:
        TypeAdapter(known.kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise refusal(str(error)) from None
    if known.key is None:
        raise refusal(f"Setting {key} has no meaning for cetool's server, so it cannot be changed")
    if known.kind is int and not 0 < value < 2**31:
        raise refusal(f"1 validation error: {key} must be a positive number")
