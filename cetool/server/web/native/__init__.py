"""The native API, ``/cetool/1``."""

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
    requests,
    tokens,
)
from cetool.server.web.native.routes import Api

__all__ = ["on_error", "router"]

router = Api()
for _part in (answers, about, builds, environments, events, files, following, namespaces, requests, tokens, access):
    router.include_router(_part.router)
openapi.add_document(router)
