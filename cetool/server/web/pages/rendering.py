"""Templates to answers: the values that every page has, and how times, sizes and counts are written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from cetool import __version__
from cetool.base.durations import format_duration, format_size
from cetool.base.text import counted
from cetool.server.access import Principal, is_administrator
from cetool.server.web.urls import path, place_of, segment

_HERE = Path(__file__).resolve().parent
#: The files at ``/static/``, with their types.
STATIC = {
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "pages.css": "text/css",
    "pages.js": "text/javascript",
}
#: What a page says after a change, by the word in its query; ``n`` is a number there.
_DONE = {
    "used": "The environment now is build {n}.",
    "rolled-back": "Rolled back to build {n}.",
    "described": "Saved the description.",
    "renamed": "Renamed the environment.",
    "deleted": "Deleted the environment, which frees {size}.",
    "build-deleted": "Deleted the build, which frees {size}.",
    "canceled": "Canceled the build.",
    "exists": "This build already has what you asked for: nothing had to be built.",
    "revoked": "Revoked the token.",
    "granted": "Added the grant.",
    "ungranted": "Removed the grant.",
    "namespace": "Created the namespace.",
    "namespace-deleted": "Deleted the namespace, which frees {size}.",
    "settings": "Saved the settings.",
    "password": "Changed the password. Sign in again.",
    "user": "Created the user.",
    "user-changed": "Changed the user.",
}
#: Who asks, before that is known.
ANONYMOUS = Principal("anonymous")


# --- values in templates ----------------------------------------------------------------------------------------------


def moment(seconds: float | None) -> Markup:
    """Return a time of the past or future as ``<time>``: relative for readers, exact in its attributes."""
    if seconds is None:
        return Markup("–")
    at = datetime.fromtimestamp(seconds, timezone.utc)
    exact = f"{at.day} {at:%B %Y, %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{at:%Y-%m-%dT%H:%M:%SZ}", exact, relative(time.time() - seconds)
    )


def relative(age: float) -> str:
    """Return how long ago something was, or will be if the age is negative: ``3 minutes ago``, ``in 2 days``."""
    whole = abs(int(age))
    units = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))
    for size, unit in units:
        if whole >= size:
            text = counted(whole // size, unit)
            return f"{text} ago" if age > 0 else f"in {text}"
    return "just now" if age > -5 else "in less than a minute"


def took(seconds: float) -> str:
    """Return how long something took: ``0.8 s`` below ten seconds, else as everywhere in cetool."""
    # the number and its unit stay on one line
    text = f"{max(0.0, seconds):.1f} s" if seconds < 10 else format_duration(seconds)
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def sentence(text: str | None, *names: str) -> str:
    """Return a message as a sentence: with a full stop, and a capital letter unless it begins with one of the names."""
    text = (text or "").strip()
    first = text.partition(" ")[0]
    if first.isalpha() and first not in ("cetool", *names):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else f"{text}."


def channel_name(url: str) -> str:
    """Return the name of a channel as people know it: the end of its URL."""
    return url.rstrip("/").rpartition("/")[2] or url


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """Return a file at ``/static/`` and the digest in its URL, with which browsers keep it."""
    content = (_HERE / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        ago=moment, channel=channel_name, count=counted, duration=took, sentence=sentence, size=format_size
    )
    return environment


# --- answers ----------------------------------------------------------------------------------------------------------


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Answer with a page. Every value is escaped."""
    principal: Principal = request.scope.get("cetool_principal") or ANONYMOUS
    prefix = request.scope.get("root_path", "")

    def url(*parts: Any) -> str:
        """A path: the first part as it is, the others (also those in tuples) each one segment."""
        first, *rest = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        return "/".join([path(request, first), *(segment(str(each)) for each in rest)])

    def static(name: str) -> str:
        return f"{prefix}/static/{name}?v={static_file(name)[1]}"

    app = request.scope.get("app")
    known = principal.authenticated or bool(principal.grants)
    common = {
        "url": url,
        "static": static,
        "user": principal,
        "sections": _sections(principal) if known else (),
        "section": "/" + place_of(request.scope).split("/")[1],
        "done": _done(request),
        "version": __version__,
        "key_id": app.state.server.signer.id if app is not None else "",
        "base_url": str(request.base_url).rstrip("/") if app is not None else "",
        "error": None,
    }
    html = _templates().get_template(f"{template}.html").render({**common, **values})
    return HTMLResponse(html.encode("utf-8", "replace"), status)


def seen(request: Request, place: str, done: str | None = None, n: int | None = None, **query: object) -> Response:
    """Redirect to a page after a change, which says what was done."""
    return RedirectResponse(path(request, place, **query, done=done, n=n), 303)


def here(request: Request) -> str:
    """Return the path that was asked for, without the server's prefix, for links."""
    return "/".join(map(segment, place_of(request.scope).split("/")))


def page_links(request: Request, number: int, size: int, count: int, part: str = "") -> Mapping[str, Any]:
    """Return the links to the pages before and after one of a list, and what this one shows; ``part`` is its id."""

    def link(to: int) -> str:
        query = {name: value for name, value in request.query_params.items() if name not in ("page", "done", "n")}
        return path(request, here(request), **query, page=to) + (f"#{part}" if part else "")

    first, last = (number - 1) * size + 1, min(number * size, count)
    return {
        "earlier": link(min(number - 1, max(1, -(-count // size)))) if number > 1 else None,
        "later": link(number + 1) if last < count else None,
        "text": f"{first} to {last} of {count}" if first <= count else f"There are {count}",
    }


def _sections(principal: Principal) -> tuple[tuple[str, str], ...]:
    """Return the parts of the site that a principal can use."""
    all_may = (("/environments", "Environments"), ("/builds", "Builds"), ("/namespaces", "Namespaces"))
    if not principal.authenticated:
        return all_may
    mine = (*all_may, ("/access", "Access"), ("/tokens", "Tokens"))
    return (*mine, ("/users", "Users"), ("/audit", "Audit")) if is_administrator(principal) else mine


def _done(request: Request) -> str:
    """Return what the query says was done; only texts that are ours."""
    text = _DONE.get(request.query_params.get("done", ""), "")
    number = request.query_params.get("n", "")
    amount = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
    return text.format(n=amount, size=format_size(amount))
