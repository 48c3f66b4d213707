"""``cetool serve``: run a server of environments."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cetool.base.errors import CetoolError
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.voice import Voice

#: What the extra ``server`` installs, by the names that are imported.
_NEEDED = (
    "alembic",
    "argon2",
    "fastapi",
    "jinja2",
    "multipart",
    "prometheus_client",
    "sqlalchemy",
    "uvicorn",
    "watchfiles",
)


@dataclass(frozen=True)
class ServeOptions(options.Group):
    """The options of ``cetool serve``."""

    data: Annotated[Path | None, option("--data", metavar="DIR", help="Keep everything in this directory.")] = None
    bind: Annotated[
        str | None,
        option("--bind", metavar="ADDRESS:PORT", help="Listen here (default: 127.0.0.1:8484; port 0: any free one)."),
    ] = None
    workers: Annotated[int | None, option("--workers", metavar="N", help="Run this many builds at once.")] = None
    url_prefix: Annotated[
        str | None, option("--url-prefix", metavar="PATH", help="Serve everything below this path.")
    ] = None
    config: Annotated[
        Path | None, option("--config", metavar="FILE", help="Read the configuration from this file.")
    ] = None
    ui_dir: Annotated[
        Path | None, option("--ui-dir", metavar="DIR", help="Serve conda-store's web interface from this directory.")
    ] = None
    behind_proxy: Annotated[bool, option("--behind-proxy", help="Trust the headers of a proxy in front.")] = False
    tls_cert: Annotated[
        Path | None, option("--tls-cert", metavar="FILE", help="Use this certificate and its chain for HTTPS.")
    ] = None
    tls_key: Annotated[Path | None, option("--tls-key", metavar="FILE", help="Use this private key for HTTPS.")] = None


@options.command
def serve(*, given: ServeOptions) -> None:
    """Serve environments to other machines.

    Prints the address and, on the first start only, an administrator token. Ctrl-C stops the server.
    """
    require_extra()
    gc.disable()  # imports and routes make many objects and no garbage: the start takes a tenth less time
    from cetool.server.config import load_config  # the extra is needed only by these commands
    from cetool.server.serving import serve as run

    names = ("data", "bind", "workers", "url_prefix", "ui_dir", "tls_cert", "tls_key")
    chosen = {name: getattr(given, name) for name in names}
    config = load_config(given.config, {**chosen, "behind_proxy": given.behind_proxy or None}, os.environ)
    run(config, Voice("normal", os.environ).say)


def require_extra() -> None:
    """Raise CetoolError unless the extra ``server`` is installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CetoolError(
            f"the server's packages are not installed ({', '.join(missing)})",
            code="extra-missing",
            about="server",
            hint="Install them with `pipx install 'cetool[server]'`.",
        )
