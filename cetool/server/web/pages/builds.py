"""Pages of builds: the list, one with its progress and log, differences between two, cancel, rebuild, delete."""

from __future__ import annotations

from itertools import groupby
from types import SimpleNamespace
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.base.text import counted
from cetool.lock.model import PackageChange
from cetool.server import changing
from cetool.server.access import Principal, allows, reach
from cetool.server.builds import logs
from cetool.server.data import builds, environments, summaries
from cetool.server.data.builds import Build, BuildQuery
from cetool.server.data.paging import Cut
from cetool.server.data.schema import STATUSES
from cetool.server.finding import build_for
from cetool.server.web import security
from cetool.server.web.pages.asking import PAGE, Here, Number, PageNumber, Text, Viewer
from cetool.server.web.pages.environments import chosen_platform, packages_of, packages_page, trail
from cetool.server.web.pages.rendering import page, page_links, seen, sentence

router = APIRouter(include_in_schema=False)
_ONE = "/builds/{build}"
#: Bytes of the end of a log that a page shows; the rest is a link away.
_LOG = 200_000
_OTHERS = 30
_STEPS = (("Queued", ("queued",)), ("Solve", ("solv", "resolv")), ("Download", ("download", "extract")),
          ("Link", ("link", "install")), ("Complete", ()))  # fmt: skip
KINDS = {
    "environment-yaml": "environment.yml",
    "script": "script",
    "specs": "match specs",
    "lock": "lock file",
}


@router.get("/builds")
def list_builds(
    request: Request, who: Viewer, server: Here, status: Text = "", environment: Text = "",
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> Response:  # fmt: skip
    """List the builds that the viewer may see, the latest first."""
    first, slash, rest = environment.strip().partition("/")
    query = BuildQuery(
        Cut(PAGE, page=number, descending=True, count=True),
        reach(who),
        namespace=first if slash else None,
        name=(rest if slash else first) or None,
        status=status if status in STATUSES else None,
    )
    with server.database.read() as tx:
        found = builds.listed(tx, query)
    return page(
        request,
        "builds",
        builds=found.rows,
        unfinished=any(not each.is_finished for each in found.rows),
        query=SimpleNamespace(status=status, environment=environment),
        paging=page_links(request, number, PAGE, found.count or 0),
    )


@router.get(_ONE)
def show_build(
    request: Request, who: Viewer, server: Here, build: Number, platform: Text = "", q: Text = "",
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> Response:  # fmt: skip
    """Show a build: what it does or why it ended, its log, packages and specification."""
    with server.database.read() as tx:
        found = build_for(tx, who, build)
        chosen = chosen_platform(found, platform)
        packages = packages_of(tx, found, chosen)
        specification = summaries.text_of(tx, found.specification_id)
        others = _others(tx, found)
    log, start, end = _end_of_log(server, found.id)
    return page(
        request,
        "build",
        build=found,
        sentence=_sentence(found),
        steps=_steps(found),
        amount=_amount(found),
        log=log,
        log_is_cut=start > 0,
        log_end=end,
        platform=chosen,
        total=len(packages),
        q=q,
        specification=specification,
        kind=KINDS[specification.kind],
        others=others,
        may=_rights(who, found),
        trail=trail(found.namespace, found.name)[: 3 if found.environment_id else 2]
        if found.name and found.namespace
        else [],
        **packages_page(request, packages, q, number),
    )


@router.post(_ONE + "/cancel")
def cancel(request: Request, who: Viewer, server: Here, build: Number) -> Response:
    """Cancel a build."""
    security.note(request, "build.cancel", f"build {build}")
    found = changing.cancel_build(server, who, build)
    return seen(request, f"/builds/{build}", "canceled" if found.status == "CANCELED" else None)


@router.get(_ONE + "/delete")
def ask_to_delete(request: Request, who: Viewer, server: Here, build: Number) -> Response:
    """Ask before a build is deleted, and say what that frees."""
    with server.database.read() as tx:
        found = build_for(tx, who, build)
    sentences = [
        "Its packages, log and downloads go away. The build stays in the list.",
        "The environment that points to it goes back to the build before.",
        "You cannot undo this.",
    ]
    freed = changing.would_free_build(server, who, build)
    return page(
        request,
        "confirm",
        question=f"Delete build {build}?",
        sentences=sentences if _is_current(server, found) else [sentences[0], sentences[2]],
        facts=[("Frees", format_size(freed.bytes))],
        trail=[("Builds", ("/builds",)), (f"Build {build}", ("/builds", build))],
        answer="Delete the build",
        back=f"/builds/{build}",
    )


@router.post(_ONE + "/delete")
def delete(request: Request, who: Viewer, server: Here, build: Number) -> Response:
    """Delete a build."""
    freed = changing.delete_build(server, who, build, force=True)
    security.note(request, "build.delete", f"build {build}", freed=freed.bytes)
    return seen(request, f"/builds/{build}", "build-deleted", freed.bytes)


@router.get("/differences")
def show_differences(
    request: Request, who: Viewer, server: Here,
    before: Annotated[Text, Query(alias="from")] = "", after: Annotated[Text, Query(alias="to")] = "",
) -> Response:  # fmt: skip
    """Compare the packages of two builds."""
    values: dict[str, Any] = {"before": before, "after": after, "compared": [], "error": None}
    if before or after:
        try:
            with server.database.read() as tx:
                numbers = [_number(each) for each in (before, after)]
                found = [build_for(tx, who, each) for each in numbers]
                changes = environments.differences(tx, *numbers)
            values["compared"] = _compared(found, changes)
        except CetoolError as error:
            values["error"] = error
    return page(request, "differences", status=200 if values["error"] is None else 422, **values)


# --- what a page says -------------------------------------------------------------------------------------------------


def _sentence(build: Build) -> str:
    """Return what a build does, or why it ended, in one sentence."""
    if build.status == "BUILDING":
        return sentence(build.stage or "starting")
    if build.status == "QUEUED":
        return f"Waits for another attempt: {sentence(build.reason)}" if build.reason else "Waits for a builder."
    return sentence(build.reason)


def _steps(build: Build) -> list[tuple[str, str, str]]:
    """Return the steps of a build: name, state (``done``, ``now``, ``wrong`` or nothing), words of its stages."""
    words = {name: " ".join(each) for name, each in _STEPS}
    return [(name, state, words.get(name, "")) for name, state in _states(build)]


def _states(build: Build) -> list[tuple[str, str]]:
    names = [name for name, _ in _STEPS]
    if build.status == "COMPLETED":
        return [(name, "done") for name in names]
    if build.status == "QUEUED":
        return [(names[0], "now"), *((name, "") for name in names[1:])]
    stage = (build.stage or "").lower()
    at = next((index for index, (_, words) in enumerate(_STEPS) if any(word in stage for word in words)), 1)
    if build.status == "BUILDING":
        return [(name, "done" if index < at else "now" if index == at else "") for index, name in enumerate(names)]
    last = "Failed" if build.status == "FAILED" else "Canceled"
    return [*((name, "done") for name in (names[: at + 1] if stage else names[:1])), (last, "wrong")]


def _amount(build: Build) -> str:
    """Return how much of its present step is done, for people."""
    if build.done is None or not build.total:
        return ""
    if build.unit == "bytes":
        return f"{format_size(int(build.done))} of {format_size(int(build.total))}"
    return f"{build.done:g} of {build.total:g} {build.unit or ''}".strip()


def _end_of_log(server: Here, number: int) -> tuple[str, int, int]:
    """Return the end of a log, from the start of a line, and the offsets of its two ends."""
    path = logs.path_of(server.config.data, number)
    size = path.stat().st_size if path.exists() else 0
    start = max(0, size - _LOG)
    content, end, _ = logs.read(server.config.data, number, start, _LOG * 2)
    if start:
        cut = content.find(b"\n") + 1
        content, start = content[cut:], start + cut
    # a line that is being written has its end later
    whole = content.rfind(b"\n") + 1
    return content[:whole].decode("utf-8", "replace"), start, end - (len(content) - whole)


def _others(tx: sa.Connection, build: Build) -> list[int]:
    """Return the completed builds of the same environment, the latest first."""
    if build.environment_id is None or build.status != "COMPLETED":
        return []
    cut = Cut(_OTHERS, descending=True)
    query = BuildQuery(cut, environment_id=build.environment_id, status="COMPLETED", deleted=False)
    return [each.id for each in builds.listed(tx, query).rows if each.id != build.id]


def _is_current(server: Here, build: Build) -> bool:
    if build.name is None or build.environment_id is None:
        return False
    with server.database.read() as tx:
        found = environments.find(tx, build.namespace, build.name)
    return found is not None and found.build_id == build.id


def _rights(who: Principal, build: Build) -> SimpleNamespace:
    place = (build.namespace, build.name or "*")
    return SimpleNamespace(
        cancel=allows(who, "build::cancel", *place) or changing.is_own(who, build),
        delete=allows(who, "build::delete", *place),
        rebuild=allows(who, "environment::update", *place),
    )


def _number(text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit() and len(text) < 19):
        raise CetoolError(f"{text[:40]!r} is not the number of a build", code="request-malformed", about=text[:40])
    return int(text)


def _compared(found: list[Build], changes: list[PackageChange]) -> list[SimpleNamespace]:
    """Return for each platform what differs."""
    platforms = sorted({each.platform for build in found for each in build.platforms})
    by_platform = {name: list(rows) for name, rows in groupby(changes, key=lambda each: each.platform)}
    return [_differences(name, by_platform.get(name, [])) for name in platforms]


def _differences(platform: str, changes: list[PackageChange]) -> SimpleNamespace:
    rows = [
        SimpleNamespace(name=each.name, before=each.before, after=each.after, change=_kind(each)) for each in changes
    ]
    counts = [f"{count} {kind}" for kind in ("added", "removed", "changed")
              if (count := sum(row.change == kind for row in rows))]  # fmt: skip
    differs = "differs" if len(rows) == 1 else "differ"
    text = f"{counted(len(rows), 'package')} {differs}: {', '.join(counts)}." if rows else "The packages are the same."
    return SimpleNamespace(name=platform, rows=rows, sentence=text)


def _kind(change: PackageChange) -> str:
    return "added" if change.before is None else "removed" if change.after is None else "changed"
