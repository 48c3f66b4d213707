"""Manage environments on a server: request builds, follow them, and change what a name means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.app.answering import access_to
from cetool.app.named import servers
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.errors import CetoolError, Location, MetadataError, UsageError
from cetool.base.text import printable
from cetool.declare.named import Named, parse_named
from cetool.declare.source import read_bytes
from cetool.remote.builds import watched
from cetool.remote.connection import Access, Connection, Patience
from cetool.remote.environments import place_of

#: What the server calls a file that is sent as a text.
_REQUEST = ("<request>", "request")
#: Bytes of the end of a log that a failure shows.
_TAIL = 4000
#: Lines of it.
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class EnvironmentWish:
    """An environment to be built on a server."""

    #: ``[NAMESPACE/]NAME``.
    target: str
    #: Match specs, or a script.
    words: tuple[str, ...] = ()
    #: An environment.yml, a lock file or a script.
    file: Path | None = None
    platforms: tuple[str, ...] = ()
    profile: str | None = None
    description: str | None = None
    #: Whether to solve again, even if the server has an answer.
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Requested:
    """What became of a request."""

    build: int
    created: bool
    #: ``namespace/name``.
    environment: str | None
    document: Any


class OnServer:
    """One server, and the connection to it. A context manager."""

    def __init__(self, world: World, reporter: Reporter, wanted: str | None = None) -> None:
        if world.offline:
            raise UsageError("cetool is offline, and this command asks a server", code="offline-missing")
        self.world = world
        self.reporter = reporter
        pinned = servers(world, wanted)[0]
        self.access: Access = access_to(pinned, world, Patience(silence=60.0))
        self.connection = Connection(self.access)

    def __enter__(self) -> OnServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    # --- queries ------------------------------------------------------------------------------------------------------

    def environments(self, namespace: str | None, search: str | None) -> list[Any]:
        """Return the environments that the user may see."""
        return self._all("/environments", "environments", namespace=namespace, search=search)

    def builds(self, named: Named) -> list[Any]:
        """Return the builds of an environment, the latest first."""
        return self._all("/builds", "builds", namespace=named.namespace, name=named.name)

    def environment(self, named: Named) -> Any:
        """Return an environment."""
        return self.connection.get(place_of(named))

    def build(self, number: int) -> Any:
        """Return a build."""
        return self.connection.get(f"/builds/{number}")

    def packages(self, number: int, platform: str | None) -> Any:
        """Return the packages of a build."""
        return self.connection.get(f"/builds/{number}/packages", platform=platform)

    def history(self, named: Named) -> list[Any]:
        """Return what an environment pointed to, the latest first."""
        return self._all(f"{place_of(named)}/history", "history")

    def differences(self, named: Named, before: int, after: int) -> Any:
        """Return how two builds differ."""
        return self.connection.get(f"{place_of(named)}/diff", **{"from": before, "to": after})

    def log(self, number: int) -> Iterator[str]:
        """Yield the parts of a build's log."""
        for _, text in self._log_from(number, 0):
            yield text

    def follow_log(self, number: int) -> Iterator[str]:
        """Yield the parts of a build's log as it grows, until the build ends."""
        offset = 0
        for state in watched(self.access, number):
            if offset and not state.log and not state.ended:
                continue  # something else has changed
            for after, text in self._log_from(number, offset):
                offset = after
                yield text
        for _, text in self._log_from(number, offset):
            yield text

    def _log_from(self, number: int, offset: int) -> Iterator[tuple[int, str]]:
        """Yield the parts of a build's log from a byte on, each with the byte after it."""
        while True:
            path = f"/builds/{number}/log?offset={offset}"
            response = self.connection.request("GET", path, headers={"Accept": "text/plain"})
            data = response.read()
            following = str(response.headers.get("X-Next-Offset") or "")
            after = int(following) if following.isdecimal() else offset + len(data)
            if not data or after <= offset:
                return
            offset = after
            yield offset, data.decode("utf-8", "replace")

    def last_build(self, target: str) -> int:
        """Return the number of the build that a word means: ``12``, ``NS/NAME@12``, or the last one of ``NS/NAME``."""
        if target.isdecimal():
            return int(target)
        named = parse_named(target)
        if named.build is not None:
            return named.build
        found = self.builds(named)
        if not found:
            raise CetoolError(f"{named.place} has no builds", code="environment-not-found", about=named.place)
        return int(found[0]["id"])

    def _all(self, path: str, key: str, **query: object) -> list[Any]:
        """Return the items of all pages."""
        found: list[Any] = []
        cursor: object = None
        for _ in range(1000):
            page = self.connection.get(path, **query, cursor=cursor, limit=1000)
            found += page[key]
            cursor = page.get("next")
            if not cursor:
                break
        return found

    # --- changes ------------------------------------------------------------------------------------------------------

    def request(self, wish: EnvironmentWish) -> Requested:
        """Request a build. Errors in the user's file have their lines there. Raises CetoolError."""
        namespace, _, name = wish.target.rpartition("/")
        body: dict[str, Any] = {"name": name}
        source, shown = _source_of(wish)
        body |= source
        optional = {
            "namespace": namespace,
            "platforms": list(wish.platforms),
            "profile": wish.profile,
            "description": wish.description,
            "refresh": wish.refresh,
        }
        body |= {key: value for key, value in optional.items() if value}
        try:
            response = self.connection.request("POST", "/requests", body=body, expects=(200, 201, 202))
        except CetoolError as error:
            where = error.where
            if shown is None or where is None or where.path.rpartition("/")[2] not in (*_REQUEST, source["filename"]):
                raise
            raise error.but(where=Location(shown, where.line)) from None
        told = response.json()
        return Requested(int(told["build"]), bool(told.get("created", True)), told.get("environment"), told)

    def wait(self, number: int, what: str) -> Any:
        """Show a build's progress until it ends, and return it.

        Raises CetoolError if it fails, with the end of its log.
        """
        with self.reporter.progress() as progress:
            progress.stage(f"Building {what}")
            for state in watched(self.access, number):
                progress.stage(f"Building {what}: {state.stage}" if state.stage else f"Building {what}")
                if state.total:
                    progress.link(state.done, state.total)
        build = self.build(number)
        if build["status"] == "COMPLETED":
            return build
        raise self._failed(build, what)

    def _failed(self, build: Any, what: str) -> CetoolError:
        number = build["id"]
        if build["status"] == "CANCELED":
            return CetoolError(f"build {number} of {what} was canceled", code="build-canceled", about=what)
        lines = "".join(self.log(number))[-_TAIL:].splitlines()[-_TAIL_LINES:]
        hint = f"{build.get('hint') or ''} `cetool env log {number}` shows the whole log.".strip()
        return CetoolError(
            f"build {number} of {what} failed: {build.get('reason') or 'no reason is known'}",
            code="build-failed",
            about=what,
            details=tuple(printable(line) for line in lines),
            hint=hint,
        )

    def use(self, named: Named, build: int) -> Any:
        """Have an environment point to another build."""
        return self.connection.request("POST", f"{place_of(named)}/use", body={"build": build}).json()

    def rollback(self, named: Named) -> Any:
        """Have an environment point to its previous build."""
        return self.connection.request("POST", f"{place_of(named)}/rollback", body={}).json()

    def rename(self, named: Named, name: str) -> Any:
        """Give an environment another name in its namespace."""
        return self.connection.request("POST", f"{place_of(named)}/rename", body={"name": name}).json()

    def delete(self, named: Named) -> int:
        """Delete an environment with its builds; return the freed bytes."""
        told = self.connection.request("DELETE", place_of(named)).json()
        return int(told.get("freed") or 0)

    def cancel(self, number: int) -> Any:
        """Cancel a build."""
        return self.connection.request("POST", f"/builds/{number}/cancel", body={}).json()


def _source_of(wish: EnvironmentWish) -> tuple[dict[str, Any], str | None]:
    """Return what describes the environment in a request, and the user's file if it is one."""
    words = wish.words
    files = [word for word in words if _is_file(word)]
    if wish.file is not None and words:
        raise UsageError("--file and packages cannot be used together", hint="Add the packages to the file.")
    if files and len(words) > 1:
        raise UsageError(f"{files[0]} is a file, so nothing can be added to it", hint="Name it alone.")
    path = str(wish.file) if wish.file is not None else files[0] if files else None
    if path is None:
        if not words:
            raise UsageError("no packages were given", hint="Give match specs, a script, or --file environment.yml.")
        return {"specs": list(words)}, None
    shown = printable(path)
    try:
        text = read_bytes(path, shown, "file").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MetadataError("not UTF-8 text", code="script-not-text", where=Location(shown)) from None
    return {"text": text, "filename": os.path.basename(path)}, shown


def _is_file(word: str) -> bool:
    """Return whether a word is a script or file rather than a match spec: it has a suffix or a slash, and exists."""
    return bool(os.sep in word or Path(word).suffix) and os.path.isfile(word)
