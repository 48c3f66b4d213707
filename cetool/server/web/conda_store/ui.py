"""conda-store's web interface, if the operator names its directory: the npm package ``@conda-store/conda-store-ui``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from cetool.server.server import Server
from cetool.server.web.conda_store.forms import missing

router = APIRouter(include_in_schema=False)
#: It writes styles into its page, and loads fonts from data: URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_CONFIG = "config.js"


@router.get("/ui/{path:path}")
def interface(request: Request, path: str) -> Response:
    """Answer with a file of the interface, or with its page, which reads the rest of the path itself."""
    server: Server = request.app.state.server
    directory = _directory(server.config.ui_dir)
    if directory is None:
        raise missing("this server has no conda-store UI: start it with --ui-dir DIR")
    prefix = str(request.scope.get("root_path", ""))
    if path == _CONFIG:
        return Response(_script(prefix), media_type="text/javascript")
    file = _file(directory, path)
    if file is not None:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})
    return HTMLResponse(_page(directory, prefix), headers={"Content-Security-Policy": _POLICY})


def _directory(named: Path | None) -> Path | None:
    """Return where ``main.js`` is: the unpacked package, or its ``dist``."""
    if named is None:
        return None
    return next((each for each in (named, named / "dist", named / "package" / "dist") if _is_there(each)), None)


def _is_there(directory: Path) -> bool:
    return (directory / "main.js").is_file()


def _file(directory: Path, path: str) -> Path | None:
    """Return a file of the interface; None for paths of its pages."""
    if not path or "\0" in path or path.endswith(".html"):
        return None
    place = os.path.realpath(directory / path)
    inside = place.startswith(os.path.realpath(directory) + os.sep)
    return Path(place) if inside and os.path.isfile(place) else None


def _page(directory: Path, prefix: str) -> str:
    style = '<link href="main.css" rel="stylesheet">' if (directory / "main.css").is_file() else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>conda-store</title>'
        f'<base href="{prefix}/ui/"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<script src="{_CONFIG}"></script><script defer src="main.js"></script>{style}</head><body></body></html>\n'
    )


def _script(prefix: str) -> str:
    """Return the interface's configuration. It needs whole addresses, of the host that the browser used."""
    places = {
        "REACT_APP_API_URL": f"{prefix}/",
        "REACT_APP_LOGIN_PAGE_URL": f"{prefix}/login?next=",
        "REACT_APP_LOGOUT_PAGE_URL": f"{prefix}/logout/?next={prefix}/ui/",
    }
    texts = {
        "REACT_APP_AUTH_METHOD": "cookie",
        "REACT_APP_STYLE_TYPE": "green-accent",
        "REACT_APP_SHOW_AUTH_BUTTON": "true",
        "REACT_APP_ROUTER_TYPE": "browser",
        "REACT_APP_URL_BASENAME": f"{prefix}/ui",
    }
    lines = [f"  {name}: window.location.origin + {json.dumps(value)},\n" for name, value in places.items()]
    lines += [f"  {name}: {json.dumps(value)},\n" for name, value in texts.items()]
    return f"window.condaStoreConfig = {{\n{''.join(lines)}}};\n"
