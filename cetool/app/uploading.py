"""Send a server the packages that were solved here, so that the next run of a colleague need not solve."""

from __future__ import annotations

from cetool.app.answering import UPLOAD, access_to, known_answers
from cetool.app.exporting import packages_of
from cetool.app.named import servers
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.codec import encode
from cetool.base.errors import CetoolError, UsageError
from cetool.declare.environment import Solve
from cetool.remote.connection import Connection
from cetool.store.store import valid_marker


def upload(name: str, world: World, reporter: Reporter, wanted: str | None) -> None:
    """Send the packages of an environment that was solved here. Raises CetoolError.

    If the server takes no packages from this user, that is remembered for a while.
    """
    marker = valid_marker(world.paths.envs / name)
    if marker is None or not isinstance(marker.spec.what, Solve):
        raise UsageError(f"{name} is not an environment that was solved here")
    lock = packages_of(name, world, reporter)
    if lock.without_digest:
        reporter.detail(f"Not uploaded, since there is no digest of {', '.join(lock.without_digest[:5])}")
        return
    pinned = servers(world, wanted)[0]
    body = {
        "spec": marker.spec.as_dict(),
        "platform": marker.subdir,
        "conda": [encode(package) for package in lock.conda],
        "pypi": [encode(package) for package in lock.pypi],
    }
    try:
        with Connection(access_to(pinned, world)) as connection:
            connection.request("POST", "/answers", body=body, expects=(200, 201, 202)).read()
    except CetoolError as error:
        if error.code in ("not-allowed", "not-authenticated"):
            known_answers(world).note_failure(pinned.url, UPLOAD)
        raise
    reporter.say(f"Sent {pinned.shown} the packages of {name}")
