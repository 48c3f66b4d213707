"""Specifications: build an environment from one, build it again, or only solve it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from cetool.base.errors import MetadataError
from cetool.base.limits import parse_json
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.nodes import Node, parse_yaml
from cetool.lock.plain import to_yaml
from cetool.server import submitting
from cetool.server.access import Principal, is_name
from cetool.server.data import namespaces
from cetool.server.policies import policy_of
from cetool.server.server import Server
from cetool.server.submitting import Submission, submit
from cetool.server.web.conda_store.builds import Number, find
from cetool.server.web.conda_store.forms import Here, Route, Who, ok, permit, refusal
from cetool.server.web.conda_store.solving import Solver, solved_packages

router = APIRouter(route_class=Route)
_PATTERN = r"^[A-Za-z0-9\-+_@$&?^~.=]+$"
_LONGEST_NAME = 255


class _Pip(BaseModel):
    pip: list[str] = []


class Specification(BaseModel):
    """A specification as conda-store defines it; other keys are ignored."""

    name: Annotated[str, Field(pattern=_PATTERN)]
    channels: list[str] = []
    dependencies: list[str | _Pip] = []
    description: str | None = ""
    prefix: str | None = None
    variables: dict[str, str | int] | None = None

    @property
    def text(self) -> str:
        """It as an ``environment.yml`` with what cetool reads of it."""
        dependencies = [each if isinstance(each, str) else {"pip": each.pip} for each in self.dependencies]
        document: dict[str, object] = {"name": self.name}
        if self.channels:
            document["channels"] = self.channels
        document["dependencies"] = [each for each in dependencies if each != {"pip": []}]
        if self.variables:
            document["variables"] = {name: str(value) for name, value in self.variables.items()}
        return to_yaml(document)


def read_specification(text: str) -> Specification:
    """Read a specification in YAML or JSON. Raises CetoolError with conda-store's words."""
    try:
        return Specification.model_validate(_document(text))
    except ValidationError as error:
        lines = [f"{each['msg']} (type={each['type']}, loc={each['loc']})" for each in error.errors()]
        raise refusal("\n".join(lines)) from None


def _document(text: str) -> Any:
    try:
        if text.lstrip().startswith("{"):
            return parse_json(text.encode("utf-8", "surrogatepass"))
        node = parse_yaml(text, name="specification")
        return None if node is None else _value(node)
    except MetadataError as error:
        raise refusal(f"Unable to parse. Invalid YAML: {error}") from None
    except (ValueError, RecursionError) as error:
        raise refusal(f"Unable to parse. Invalid YAML: {error}") from None


def _value(node: Node) -> Any:
    """Return a value of YAML; numbers in place of texts stay errors."""
    if node.kind == "mapping":
        return {key: _value(value) for key, value in node.entries.items()}
    if node.kind == "list":
        return [_value(each) for each in node.items]
    if node.kind == "number":
        try:
            return int(node.text)
        except ValueError:
            return float(node.text) if node.text.replace(".", "").isdigit() else node.text
    if node.kind == "boolean":
        return node.text.lower() == "true"
    return None if node.kind == "nothing" else node.text


async def _solver(request: Request) -> Solver:
    """Return what solves; there is one for the whole server."""
    state = request.app.state
    if not hasattr(state, "solver"):
        state.solver = Solver(state.server)
    found: Solver = state.solver
    return found


class _Query(BaseModel):
    """What to solve; conda-store's command line sends ``channels``."""

    channel: list[str] = []
    channels: list[str] = []
    conda: list[str] = []
    pip: list[str] = []
    format: Literal["yaml", "lockfile"] = "yaml"


def _specified(
    wanted: Annotated[_Query, Query()], who: Who, solver: Annotated[Solver, Depends(_solver)]
) -> EnvironmentSpec:
    """Return the specification in a query. Raises CetoolError for a malformed one, and without the right to solve."""
    permit(who, "environment::solve", who.namespace)
    dependencies: list[str | _Pip] = [*filter(None, wanted.conda), _Pip(pip=list(filter(None, wanted.pip)))]
    channels = list(filter(None, (*wanted.channel, *wanted.channels)))
    found = Specification(name="solve", channels=channels, dependencies=dependencies)
    return solver.specified(found.text, who.namespace)


@router.get("/api/v1/specification/")
async def get_specification(
    spec: Annotated[EnvironmentSpec, Depends(_specified)], solver: Annotated[Solver, Depends(_solver)]
) -> Response:
    """Solve without building. Only the answer to this request waits."""
    job = solver.jobs.start(lambda: solved_packages(solver.solve(spec)))
    return JSONResponse({"solve": await asyncio.wrap_future(job)})


@router.post("/api/v1/specification/")
def post_specification(
    here: Here,
    who: Who,
    specification: Annotated[str, Body()] = "",
    namespace: Annotated[str | None, Body()] = None,
    is_lockfile: Annotated[bool | None, Body()] = False,
    environment_name: Annotated[str | None, Body()] = "",
    environment_description: Annotated[str | None, Body()] = "",
) -> Response:
    """Build an environment from a specification, or from a conda-lock file; return the number of the build."""
    if is_lockfile:
        name, description = environment_name or "", environment_description
        kind, text = "lock", specification
    else:
        found = _filled(here, read_specification(specification), namespace or who.namespace)
        name, description = found.name, found.description
        kind, text = "environment-yaml", found.text
    if not is_name(name):
        raise refusal(
            f"the name of the environment must have 1 to {_LONGEST_NAME} characters and match {_PATTERN}, "
            f"not {name[:100]!r}"
        )
    space = namespace or who.namespace
    _permit_creation(here, who, space, name)
    submission = Submission(
        namespace=space,
        name=name,
        text=text,
        by=who,
        kind=kind,
        description=description or None,
        origin="conda-store",
        filename="conda-lock.yml" if is_lockfile else "environment.yml",
    )
    return ok({"build_id": submit(here, submission).build_id})


def _filled(here: Server, found: Specification, space: str) -> Specification:
    """Return a specification that has a package: conda-store takes one without any, and an environment needs one."""
    if any(each if isinstance(each, str) else each.pip for each in found.dependencies):
        return found
    with here.database.read() as tx:
        policy = policy_of(here.config, namespaces.levels(tx, space, found.name))
    added = policy.packages_default or policy.packages_required
    return found if added else found.model_copy(update={"dependencies": ["python"]})


def _permit_creation(here: Server, who: Principal, space: str, name: str) -> None:
    if not is_name(space):
        raise refusal(f"{space[:100]!r} is not a valid name of a namespace: {_PATTERN}")
    permit(who, "environment:create", space, name)
    with here.database.read() as tx:
        if namespaces.find(tx, space) is None:
            permit(who, "namespace::create", space)


@router.put("/api/v1/build/{build_id}/")
def rebuild(here: Here, who: Who, build_id: Number) -> Response:
    """Build the specification of a build again: solve it, whatever is known of it."""
    with here.database.read() as tx:
        row = find(tx, who, build_id, "environment::update")
    if row.namespace is None:
        raise refusal(f"the namespace of build {build_id} was deleted")
    return ok({"build_id": submitting.rebuild(here, build_id, who)}, "rebuild triggered")
