"""conda-store's API, ``/api/v1`` and ``/api/v2``, as of version 2025.2.2, and its web interface at ``/ui``."""

from fastapi import APIRouter

from cetool.server.web.conda_store import (
    builds,
    downloads,
    environments,
    namespaces,
    packages,
    rights,
    settings,
    specifications,
    ui,
)
from cetool.server.web.conda_store.forms import on_error

router = APIRouter()
for _part in (rights, namespaces, environments, builds, downloads, packages, specifications, settings, ui):
    router.include_router(_part.router)

__all__ = ["on_error", "router"]
