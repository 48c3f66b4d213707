"""``/cetool/1/requests``: ask for an environment, upload a solution, and build again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field, model_validator
from starlette.responses import Response

from cetool.base.codec import FieldError, decode
from cetool.base.errors import CetoolError
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.server.finding import build_for
from cetool.server.submitting import Submission, rebuild, submit, upload
from cetool.server.web import security
from cetool.server.web.errors import RequestError
from cetool.server.web.native import schemas
from cetool.server.web.native.routes import Api, Body, Here, Known, Number, reply
from cetool.server.web.urls import path, segment

router = Api(tags=["requests"])
_Text = Annotated[str, Field(min_length=1, max_length=255)]
_Spec = Annotated[str, Field(min_length=1, max_length=1000)]


class Asked(Body):
    """A request for an environment: a text, or match specs."""

    #: Default: yours.
    namespace: _Text | None = None
    #: None for a build without an environment.
    name: _Text | None = None
    kind: Literal["environment-yaml", "script", "specs", "lock"] | None = Field(
        None, description="Recognized by its text if it is not given."
    )
    text: str | None = Field(None, min_length=1, description="An environment.yml, a script, match specs, a lock file.")
    specs: list[_Spec] | None = Field(None, min_length=1, max_length=1000)
    filename: str = Field("<request>", max_length=255, description="What errors call the text.")
    platforms: list[_Text] = Field(default=[], max_length=20)
    profile: _Text = "plain"
    description: str | None = Field(None, max_length=10_000)
    refresh: bool = Field(False, description="Solve again, even if there is an answer.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Asked:
        if (self.text is None) == (self.specs is None):
            raise ValueError("give either text or specs")
        if self.specs is not None and any("\n" in each or "\r" in each for each in self.specs):
            raise ValueError("a spec has several lines")
        return self


class Solution(Body):
    """What a client solved for a specification, on one platform."""

    #: Default: yours.
    namespace: _Text | None = None
    #: The canonical specification, as the signed record has it.
    spec: dict[str, Any]
    platform: _Text
    #: The packages, with the fields that the signed record has.
    conda: list[dict[str, Any]] = Field(max_length=20_000)
    pypi: list[dict[str, Any]] = Field(default=[], max_length=20_000)


@router.on(
    "POST /cetool/1/requests",
    schemas.Requested,
    status=202,
    more={200: schemas.Requested},
    errors=[404, 409, 429, 507],
)
def ask(request: Request, principal: Known, server: Here, asked: Asked) -> Response:
    """Ask for an environment: 202 if it has to be built, 200 if it is there already.

    Identical requests of any users have one build.
    """
    submission = Submission(
        asked.namespace or principal.namespace,
        asked.name,
        asked.text if asked.text is not None else "\n".join(asked.specs or ()),
        principal,
        kind=asked.kind if asked.specs is None else "specs",
        platforms=tuple(asked.platforms),
        profile=asked.profile,
        description=asked.description,
        refresh=asked.refresh,
        filename=asked.filename,
    )
    place = f"{submission.namespace}/{submission.name or ''}"
    security.note(request, "request", place)
    submitted = submit(server, submission)
    security.note(request, "request", place, build=submitted.build_id)
    links = _links(request, submitted.build_id)
    if submitted.environment is not None:
        names = "/".join(map(segment, submitted.environment.split("/")))
        links["environment"] = path(request, f"/cetool/1/environments/{names}")
    document: schemas.Requested = {
        "build": submitted.build_id,
        "created": submitted.created,
        "status": submitted.status,
        "environment": submitted.environment,
        "links": links,
    }
    return reply(document, 200 if submitted.status == "COMPLETED" else 202)


@router.on("POST /cetool/1/answers", schemas.Uploaded, status=202, more={200: schemas.Uploaded}, errors=[429, 507])
def upload_answer(request: Request, principal: Known, server: Here, solution: Solution) -> Response:
    """Upload what a client solved, so that others need not solve it.

    A build solves the specification with these packages preferred. It becomes the answer if the result has exactly
    these packages; otherwise the build fails with what differs.
    """
    spec, lock = _solution(solution)
    namespace = solution.namespace or principal.namespace
    submission = Submission(namespace, None, "", principal, kind="lock", platforms=(lock.platform,), origin="upload")
    submitted = upload(server, submission, spec, [lock])
    security.note(request, "upload", namespace, build=submitted.build_id, digest=spec.digest)
    document: schemas.Uploaded = {
        "build": submitted.build_id,
        "created": submitted.created,
        "status": submitted.status,
        "links": _links(request, submitted.build_id),
    }
    return reply(document, 200 if submitted.status == "COMPLETED" else 202)


@router.on("POST /cetool/1/builds/{number}/rebuild", schemas.Changed, status=202, errors=[404, 409, 429, 507])
def build_again(request: Request, principal: Known, server: Here, number: Number) -> Response:
    """Solve and build the request of a build again, with the packages that the channels have now."""
    with server.database.read() as tx:
        found = build_for(tx, principal, number)
    if not found.namespace:
        raise CetoolError(f"the namespace of build {number} was deleted", code="conflict", about=str(number))
    made = rebuild(server, number, principal)
    security.note(request, "build.rebuild", f"build {number}", build=made)
    document: schemas.Changed = {"build": made, "links": _links(request, made)}
    return reply(document, 202)


def _links(request: Request, number: int) -> dict[str, str]:
    place = f"/cetool/1/builds/{number}"
    return {"build": path(request, place), "events": path(request, f"{place}/events")}


def _solution(solution: Solution) -> tuple[EnvironmentSpec, PlatformLock]:
    """Return specification and packages. Raises RequestError for what they are not."""
    try:
        spec = EnvironmentSpec.from_dict(solution.spec)
        lock = PlatformLock(
            solution.platform,
            tuple(decode(Package, each) for each in solution.conda),
            tuple(decode(PypiPackage, each) for each in solution.pypi),
        )
    except FieldError as error:
        raise RequestError(f"the solution is malformed: {error}", about=error.field) from None
    except ValueError as error:
        raise RequestError(f"the specification is malformed: {error}", about="spec") from None
    if spec.is_locked or spec.overlay is not None or not lock.conda:
        raise RequestError("a solution is for packages to solve, and has some", about="spec")
    return spec, lock
