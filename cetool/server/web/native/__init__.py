"""The native API, ``/cetool/1``."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from cetool.server.web.errors import problem as on_error
from cetool.server.web.native import (
    about,
    access,
    answers,
    builds,
    environments,
    events,
    files,
    following,
    namespaces,
    openapi,
    tokens,
)
from cetool.server.web.native.routes import Api

__all__ = ["on_error", "router"]

router = Api()
for _part in (answers, about, builds, environments, events, files, following, namespaces, tokens, access):
    router.include_router(_part.router)
for _name in ("requests",):  # while the parts are being written
    _needs = {"requests": "cetool.server.submitting"}.get(_name)
    if find_spec(f"{__name__}.{_name}") is not None and (_needs is None or find_spec(_needs) is not None):
        _module: Any = import_module(f"{__name__}.{_name}")
        router.include_router(_module.router)
openapi.add_document(router)
