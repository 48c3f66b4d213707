"""The native API, ``/cetool/1``."""

from cetool.server.web.errors import problem as on_error
from cetool.server.web.native.about import router

__all__ = ["on_error", "router"]
