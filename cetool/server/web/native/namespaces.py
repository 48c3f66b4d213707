"""``/cetool/1/namespaces``: list, create, change and delete; their settings and grants."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from cetool.server import changing
from cetool.server.access import reach, require
from cetool.server.config_values import KEYS, Wrong
from cetool.server.data import namespaces as data
from cetool.server.data.namespaces import Namespace, NamespaceQuery
from cetool.server.finding import environment_for, namespace_for
from cetool.server.policies import policy_of
from cetool.server.web import security
from cetool.server.web.errors import RequestError
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Body, Here, Known, Name, Part, reply, when

router = Api(tags=["namespaces"])
_ONE = "/cetool/1/namespaces/{namespace}"
#: The settings that have levels.
_LEVELED = (
    *("channels-allowed", "channels-default", "channels-required"),
    *("packages-allowed", "packages-default", "packages-required"),
)


class NewNamespace(Body):
    """A namespace that is to be created."""

    name: str = Field(min_length=1, max_length=255)
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=1000)


class Metadata(Body):
    """What can be changed of a namespace."""

    metadata: dict[str, Any] = Field(max_length=1000)


class SettingChanges(Body):
    """Settings that are to be changed; null removes one, so that the level above applies."""

    settings: dict[str, Any]


@router.on("GET /cetool/1/namespaces", schemas.Namespaces)
def list_namespaces(
    principal: Known,
    server: Here,
    part: Part,
    search: Annotated[str | None, Query(max_length=255, description="A part of the name.")] = None,
) -> Response:
    """List the namespaces that you may see, by name."""
    query = NamespaceQuery(part, reach(principal, "namespace::read"), search)
    with server.database.read() as tx:
        page = data.listed(tx, query)
    document: schemas.Namespaces = {"namespaces": [_document(each) for each in page.rows], "next": page.next}
    return reply(document)


@router.on("POST /cetool/1/namespaces", schemas.Namespace, status=201, errors=[409])
def create_namespace(request: Request, principal: Known, server: Here, new: NewNamespace) -> Response:
    """Create a namespace."""
    require(principal, "namespace::create", new.name)
    with server.database.write() as tx:
        data.create(tx, new.name, by=principal.name)
        if new.metadata:
            data.set_metadata(tx, new.name, new.metadata)
        found = data.get(tx, new.name)
    server.news.publish("events")
    security.note(request, "namespace.create", new.name)
    return reply(_document(found), 201)


@router.on(f"GET {_ONE}", schemas.Namespace, errors=[404])
def show_namespace(principal: Known, server: Here, namespace: Name) -> Response:
    """Show a namespace."""
    with server.database.read() as tx:
        return reply(_document(namespace_for(tx, principal, namespace)))


@router.on(f"PATCH {_ONE}", schemas.Namespace, errors=[404])
def change_namespace(principal: Known, server: Here, namespace: Name, change: Metadata) -> Response:
    """Replace the metadata."""
    with server.database.write() as tx:
        namespace_for(tx, principal, namespace, "namespace::update")
        data.set_metadata(tx, namespace, change.metadata)
        return reply(_document(data.get(tx, namespace)))


@router.on(f"DELETE {_ONE}", schemas.Changed, errors=[404])
def delete_namespace(request: Request, principal: Known, server: Here, namespace: Name) -> Response:
    """Delete a namespace with its environments, builds, settings and grants."""
    freed = changing.delete_namespace(server, principal, namespace)
    security.note(request, "namespace.delete", namespace, freed=freed.bytes)
    document: schemas.Changed = {"freed": freed.bytes}
    return reply(document)


# --- settings ---------------------------------------------------------------------------------------------------------


@router.on("GET /cetool/1/settings", schemas.Settings)
def show_settings(principal: Known, server: Here) -> Response:
    """Show the settings of the whole server."""
    require(principal, "setting::read", "*")
    return _settings(server, "", "")


@router.on("PUT /cetool/1/settings", schemas.Settings)
def change_settings(request: Request, principal: Known, server: Here, given: SettingChanges) -> Response:
    """Change settings of the whole server."""
    require(principal, "setting::update", "*")
    return _change(request, given, "", "")


@router.on(f"GET {_ONE}/settings", schemas.Settings, errors=[404])
def show_namespace_settings(principal: Known, server: Here, namespace: Name) -> Response:
    """Show the settings of a namespace."""
    with server.database.read() as tx:
        namespace_for(tx, principal, namespace, "setting::read")
    return _settings(server, namespace, "")


@router.on(f"PUT {_ONE}/settings", schemas.Settings, errors=[404])
def change_namespace_settings(
    request: Request, principal: Known, server: Here, namespace: Name, given: SettingChanges
) -> Response:
    """Change settings of a namespace."""
    with server.database.read() as tx:
        namespace_for(tx, principal, namespace, "setting::update")
    return _change(request, given, namespace, "")


@router.on("GET /cetool/1/environments/{namespace}/{name}/settings", schemas.Settings, errors=[404])
def show_environment_settings(principal: Known, server: Here, namespace: Name, name: Name) -> Response:
    """Show the settings of an environment."""
    with server.database.read() as tx:
        environment_for(tx, principal, namespace, name, "setting::read")
    return _settings(server, namespace, name)


@router.on("PUT /cetool/1/environments/{namespace}/{name}/settings", schemas.Settings, errors=[404])
def change_environment_settings(
    request: Request, principal: Known, server: Here, namespace: Name, name: Name, given: SettingChanges
) -> Response:
    """Change settings of an environment."""
    with server.database.read() as tx:
        environment_for(tx, principal, namespace, name, "setting::update")
    return _change(request, given, namespace, name)


def _settings(server: Here, namespace: str, name: str) -> Response:
    level = data.level_of(namespace, name)
    with server.database.read() as tx:
        own = data.settings_at(tx, level)
        policy = policy_of(server.config, data.levels(tx, namespace, name))
    effective = {key: _plain(getattr(policy, key.replace("-", "_"))) for key in _LEVELED}
    for key, narrower in (("channels-allowed", policy.channels_within), ("packages-allowed", policy.packages_within)):
        if narrower:
            effective[key] = _plain(narrower[-1])
    document: schemas.Settings = {"level": level, "own": own, "effective": effective}
    return reply(document)


def _change(request: Request, given: SettingChanges, namespace: str, name: str) -> Response:
    server = request.app.state.server
    changes = {key: None if value is None else _checked(key, value) for key, value in given.settings.items()}
    level = data.level_of(namespace, name)
    with server.database.write() as tx:
        for key, value in changes.items():
            data.set_setting(tx, level, key, value)
    security.note(request, "setting.update", level or "the server", keys=sorted(changes))
    return _settings(server, namespace, name)


def _checked(key: str, value: Any) -> Any:
    """Return a value as it is stored. Raises RequestError for an unknown key or a wrong value."""
    if key not in _LEVELED:
        raise RequestError(
            f"{key[:100]!r} is not a setting of namespaces", about=key[:100], hint=f"Settings: {', '.join(_LEVELED)}."
        )
    try:
        return _plain(KEYS[key].read(value))
    except Wrong as wrong:
        raise RequestError(f"{key} {wrong}", about=key, hint=wrong.hint) from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _document(found: Namespace) -> schemas.Namespace:
    return {
        "name": found.name,
        "metadata": dict(found.metadata),
        "created": when(found.created),
        "created_by": found.created_by,
    }
