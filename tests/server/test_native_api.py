"""The native API over HTTP: ask for an environment, wait, use it, go back, download, and who may see what."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from http.client import IncompleteRead
from typing import Any

import pytest
from support.home import Home
from support.serving import RunningServer, running_server

from cetool.declare.environment import EnvironmentSpec
from cetool.declare.platforms import current_platform
from cetool.lock.conda_lock import read_conda_lock
from cetool.lock.explicit import read_explicit
from cetool.remote.records import opened

ENVIRONMENTS = "/cetool/1/environments"


@pytest.fixture(scope="module")
def server(settled: Home, channel_url: str) -> Iterator[RunningServer]:
    # uploaded packages are from the local channel's own URL
    env = {"CETOOL_SERVER_CHANNELS_ALLOWED": f"conda-forge,{channel_url}"}
    with running_server(settled, data=settled.path / "api", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def built(server: RunningServer) -> dict[str, Any]:
    """A completed build of team/tools."""
    answer = server.post("/cetool/1/requests", {"namespace": "team", "name": "tools", "specs": ["six ==1.16.0"]})
    assert answer.status == 202, answer.text
    assert answer.json["created"] and answer.json["environment"] == "team/tools"
    found = server.wait(answer.json["build"])
    assert found["status"] == "COMPLETED", found
    return found


def token(server: RunningServer, pattern: str, role: str) -> str:
    grants = [{"pattern": pattern, "role": role}]
    made: str = server.post("/cetool/1/tokens", {"name": f"{role} of {pattern}", "grants": grants}).json["token"]
    return made


def test_a_request_becomes_a_build_and_an_environment(server: RunningServer, built: dict[str, Any]) -> None:
    shown = server.get(f"{ENVIRONMENTS}/team/tools")
    assert shown.json["build"] == built["id"]
    assert shown.json["links"]["build"] == f"/cetool/1/builds/{built['id']}"
    assert built["origin"] == "api" and built["reason"]
    names = [each["name"] for each in server.get(f"{ENVIRONMENTS}?namespace=team").json["environments"]]
    assert "tools" in names
    assert (server.data / "names/team/tools/conda-meta").is_dir()


def test_the_same_request_again_has_the_same_build(server: RunningServer, built: dict[str, Any]) -> None:
    again = server.post("/cetool/1/requests", {"namespace": "team", "name": "tools", "text": "six==1.16.0\n"})
    assert (again.status, again.json["created"], again.json["build"]) == (200, False, built["id"])
    other = server.post("/cetool/1/requests", {"namespace": "team", "name": "other", "specs": ["six ==1.16.0"]})
    assert (other.status, other.json["created"], other.json["status"]) == (200, True, "COMPLETED")


def test_an_answer_is_signed_by_the_key_of_the_server(server: RunningServer) -> None:
    # no other test requests the same: the answer is from the newest build of a request
    body = {"namespace": "team", "name": "signed", "specs": ["six >=1.16,<1.16.1"]}
    built = server.wait(server.post("/cetool/1/requests", body).json["build"])
    (platform,) = built["platforms"]
    place = f"/cetool/1/answers/{platform['platform']}/{platform['request']}"
    answer = server.get(place)
    assert answer.status == 200
    public = base64.b64decode(server.get("/cetool/1", token=None).json["key"]["public"])
    record = opened(answer.body, public)
    assert (record.request, record.platform, record.build) == (platform["request"], current_platform(), built["id"])
    assert record.spec.digest == platform["request"]
    assert record.environment == "team/signed"
    assert "six" in [package.name for package in record.conda]
    assert record.lock.digest == platform["lock"]
    assert server.get(place, headers={"If-None-Match": answer.headers["etag"]}).status == 304
    assert server.get(f"/cetool/1/builds/{built['id']}/record/{platform['platform']}").body == answer.body


def test_an_answer_is_for_those_who_may_read_an_environment_with_it(
    server: RunningServer, built: dict[str, Any]
) -> None:
    (platform,) = built["platforms"]
    place = f"/cetool/1/answers/{platform['platform']}/{platform['request']}"
    assert server.get(place, token=token(server, "team/tools", "viewer")).status == 200
    assert server.get(place, token=token(server, "elsewhere/*", "admin")).status == 404
    assert server.get(place, token=None).status == 401
    viewer = token(server, "second/*", "contributor")
    assert server.get(place, token=viewer).status == 404
    body = {"namespace": "second", "name": "copy", "specs": ["six ==1.16.0"]}
    server.post("/cetool/1/namespaces", {"name": "second"})
    copy = server.post("/cetool/1/requests", body, token=viewer)
    assert copy.status == 200
    answer = server.get(place, token=viewer)
    assert answer.status == 200
    # in the name of the build that the viewer may read
    public = base64.b64decode(server.get("/cetool/1", token=None).json["key"]["public"])
    record = opened(answer.body, public)
    assert (record.build, record.environment) == (copy.json["build"], "second/copy")
    assert record.lock.digest == platform["lock"]
    again = server.get(place, token=viewer, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status == 304
    assert server.request("DELETE", f"{ENVIRONMENTS}/second/copy").status == 200
    assert server.get(place, token=viewer).status == 404


def test_a_revoked_token_gets_no_answer_from_memory(server: RunningServer, built: dict[str, Any]) -> None:
    (platform,) = built["platforms"]
    place = f"/cetool/1/answers/{platform['platform']}/{platform['request']}"
    made = server.post("/cetool/1/tokens", {"name": "to be revoked"}).json
    assert [server.get(place, token=made["token"]).status for _ in range(3)] == [200] * 3
    server.request("DELETE", f"/cetool/1/tokens/{made['id']}")
    assert server.get(place, token=made["token"]).status == 401


def test_what_may_not_be_seen_does_not_exist(server: RunningServer, built: dict[str, Any]) -> None:
    other = token(server, "elsewhere/*", "admin")
    for place in (f"/cetool/1/builds/{built['id']}", f"{ENVIRONMENTS}/team/tools", "/cetool/1/namespaces/team"):
        hidden, absent = server.get(place, token=other), server.get(place.replace("team", "no"), token=other)
        assert hidden.status == 404 and absent.status == 404
    # everyone may see what is in the default namespace
    assert {each["namespace"] for each in server.get("/cetool/1/builds", token=other).json["builds"]} <= {"default"}
    viewer = token(server, "team/*", "viewer")
    assert server.request("DELETE", f"{ENVIRONMENTS}/team/tools", token=viewer).status == 403
    assert server.post("/cetool/1/requests", {"namespace": "team", "specs": ["six"]}, token=viewer).status == 403


def test_an_environment_is_used_rolled_back_and_changed_only_as_seen(server: RunningServer) -> None:
    """RFC 9110: If-Match; If-None-Match."""
    place = f"{ENVIRONMENTS}/moving/env"
    numbers = []
    for spec in ("six ==1.16.0", "six ==1.17.0"):
        asked = server.post("/cetool/1/requests", {"namespace": "moving", "name": "env", "specs": [spec]}).json
        numbers.append(asked["build"])
        assert server.wait(asked["build"])["status"] == "COMPLETED"
    first, second = numbers
    shown = server.get(place)
    assert shown.json["build"] == second
    etag = shown.headers["etag"]
    assert server.get(place, headers={"If-None-Match": etag}).status == 304
    back = server.post(f"{place}/rollback", headers={"If-Match": etag})
    assert (back.status, back.json["build"]) == (200, first)
    stale = server.post(f"{place}/use", {"build": second}, headers={"If-Match": etag})
    assert (stale.status, stale.json["code"]) == (412, "precondition-failed")
    used = server.post(f"{place}/use", {"build": second}, headers={"If-Match": back.headers["etag"]})
    assert used.json["build"] == second
    history = server.get(f"{place}/history?limit=2").json
    assert [(each["action"], each["build"]) for each in history["history"]] == [("use", second), ("rollback", first)]
    rest = server.get(f"{place}/history?cursor={history['next']}").json
    assert [each["action"] for each in rest["history"]] == ["build", "build"] and rest["next"] is None
    (change,) = server.get(f"{place}/diff?from={first}&to={second}").json["changes"]
    assert (change["name"], change["before"][:6], change["after"][:6]) == ("six", "1.16.0", "1.17.0")
    described = server.request("PATCH", place, {"description": "tools"})
    assert described.json["description"] == "tools"
    assert server.request("DELETE", f"/cetool/1/builds/{second}").json["code"] == "conflict"
    assert server.request("DELETE", f"/cetool/1/builds/{second}?force=true").status == 200
    assert server.get(place).json["build"] == first
    renamed = server.post(f"{place}/rename", {"name": "renamed"})
    assert renamed.json["name"] == "renamed" and server.get(place).status == 404
    assert server.request("DELETE", f"{ENVIRONMENTS}/moving/renamed").json["freed"] >= 0


def test_lock_files_have_exactly_the_packages(server: RunningServer, built: dict[str, Any]) -> None:
    place = f"/cetool/1/builds/{built['id']}"
    listed = server.get(f"{place}/packages").json["packages"]
    urls = {each["url"] for each in listed}
    assert urls and all(each["sha256"] for each in listed)
    conda_lock = read_conda_lock(server.get(f"{place}/lock").text, "lock").platforms[0]
    assert {each.url for each in conda_lock.conda} == urls
    explicit = read_explicit(server.get(f"{place}/lock?format=explicit").text, "lock").platforms[0]
    assert {each.url for each in explicit.conda} == urls
    assert "six" in server.get(f"{place}/lock?format=pixi").text
    assert "six=1.16.0" in server.get(f"{place}/lock?format=environment").text
    assert server.get(f"{place}/lock?format=other").status == 422


def test_the_log_says_what_was_built_and_is_followed_to_its_end(server: RunningServer, built: dict[str, Any]) -> None:
    place = f"/cetool/1/builds/{built['id']}"
    log = server.get(f"{place}/log")
    assert log.headers["content-type"].startswith("text/plain") and "six" in log.text
    half = len(log.body) // 2
    assert server.get(f"{place}/log?offset={half}").body == log.body[half:]
    assert int(log.headers["x-next-offset"]) == len(log.body)
    with server.stream(f"{place}/events") as stream:
        text = stream.read().decode()
    assert "event: status" in text and "event: log" in text
    end = json.loads(text.rpartition("event: end\ndata: ")[2].strip())
    assert end["status"] == "COMPLETED"
    with server.stream(f"{place}/log") as stream:
        assert "event: progress" not in stream.read().decode()


def test_archives_of_packages_are_downloaded_in_part(server: RunningServer, built: dict[str, Any]) -> None:
    """RFC 9110: Range requests."""
    place = f"/cetool/1/builds/{built['id']}"
    package = next(each for each in server.get(f"{place}/packages").json["packages"] if each["name"] == "six")
    blob = f"/cetool/1/blobs/{built['id']}/{package['sha256']}/six.conda"
    whole = server.get(blob)
    assert whole.status == 200, whole.text
    assert hashlib.sha256(whole.body).hexdigest() == package["sha256"]
    part = server.get(blob, headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.body)}"
    assert server.get(blob, headers={"Range": "bytes=-5"}).body == whole.body[-5:]
    assert server.get(blob, headers={"Range": "bytes=5-"}).body == whole.body[5:]
    outside = server.get(blob, headers={"Range": f"bytes={len(whole.body)}-"})
    assert (outside.status, outside.json["code"]) == (416, "range-invalid")
    for strange in ("bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-0,5-6", "bytes=" + "0-0," * 1000):
        assert server.get(blob, headers={"Range": strange}).body == whole.body
    assert server.get(blob, headers={"If-None-Match": whole.headers["etag"]}).status == 304
    assert server.get(blob, headers={"Range": "bytes=1-2", "If-Range": '"other"'}).status == 200
    assert server.get(blob.replace(package["sha256"], "a" * 64)).status == 404
    assert server.get(blob, token=token(server, "elsewhere/*", "admin")).status == 404


def test_a_download_ends_when_its_token_is_revoked(server: RunningServer, built: dict[str, Any]) -> None:
    packages = server.get(f"/cetool/1/builds/{built['id']}/packages").json["packages"]
    largest = max(packages, key=lambda each: each["size"])
    assert largest["size"] > 20_000_000
    made = server.post("/cetool/1/tokens", {"name": "short"}).json
    place = f"/cetool/1/blobs/{built['id']}/{largest['sha256']}/x"
    with server.stream(place, token=made["token"], accept="*/*") as download:
        assert len(download.read(100_000)) == 100_000
        server.request("DELETE", f"/cetool/1/tokens/{made['id']}")
        with pytest.raises((IncompleteRead, ConnectionError)):
            download.read()


def test_lists_are_cut_into_pages_by_a_cursor(server: RunningServer) -> None:
    for number in range(5):
        server.post("/cetool/1/namespaces", {"name": f"page{number}"})
    found: list[str] = []
    place = "/cetool/1/namespaces?search=page&limit=2"
    answer = server.get(place).json
    while True:
        found += [each["name"] for each in answer["namespaces"]]
        if answer["next"] is None:
            break
        answer = server.get(f"{place}&cursor={answer['next']}").json
    assert found == [f"page{number}" for number in range(5)]
    assert server.get("/cetool/1/builds?cursor=nonsense").json["code"] == "request-malformed"


def test_a_namespace_is_deleted_with_all_that_is_in_it(server: RunningServer, built: dict[str, Any]) -> None:
    place = "/cetool/1/namespaces/doomed"
    assert server.post("/cetool/1/namespaces", {"name": "doomed", "metadata": {"team": 1}}).status == 201
    assert server.post("/cetool/1/namespaces", {"name": "doomed"}).json["code"] == "conflict"
    asked = server.post("/cetool/1/requests", {"namespace": "doomed", "name": "env", "specs": ["six ==1.16.0"]})
    assert asked.json["status"] == "COMPLETED"
    link = server.data / "names/doomed/env"
    assert link.is_symlink()
    assert server.request("DELETE", place).json["freed"] == 0, "team/tools has the same environment"
    assert not link.is_symlink()
    assert [server.get(each).status for each in (place, f"{ENVIRONMENTS}/doomed/env")] == [404, 404]


def test_settings_of_a_namespace_apply_to_its_requests(server: RunningServer) -> None:
    place = "/cetool/1/namespaces/strict/settings"
    server.post("/cetool/1/namespaces", {"name": "strict"})
    changed = server.request("PUT", place, {"settings": {"packages-allowed": ["numpy*"]}})
    assert changed.json["own"] == {"packages-allowed": ["numpy*"]}
    assert changed.json["effective"]["packages-allowed"] == ["numpy*"]
    assert changed.json["effective"]["channels-default"] == ["conda-forge"]
    refused = server.post("/cetool/1/requests", {"namespace": "strict", "specs": ["six"]})
    assert refused.status == 403 and "six" in refused.json["detail"]
    assert server.request("PUT", place, {"settings": {"packages-allowed": None}}).json["own"] == {}
    assert server.request("PUT", place, {"settings": {"colour": "red"}}).status == 400


def test_wrong_specifications_are_refused_with_their_line(server: RunningServer) -> None:
    text = "channels: [conda-forge]\ndependencies:\n  - six\n  - ==1\n"
    answer = server.post("/cetool/1/requests", {"namespace": "team", "name": "wrong", "text": text})
    assert answer.status == 422
    assert answer.json["where"]["line"] == 4
    wrong: list[dict[str, Any]] = [{}, {"text": "six", "specs": ["six"]}, {"specs": ["six\nnumpy"]}, {"specs": []}]
    for body in (*wrong, {"text": ""}):
        assert server.post("/cetool/1/requests", body).status == 422


def test_a_build_that_fails_says_why(server: RunningServer) -> None:
    asked = server.post("/cetool/1/requests", {"namespace": "team", "specs": ["no-such-package-at-all"]}).json
    found = server.wait(asked["build"])
    assert (found["status"], found["code"]) == ("FAILED", "package-not-found")
    assert "no-such-package-at-all" in found["reason"]


def test_a_build_is_repeated_on_request(server: RunningServer, built: dict[str, Any]) -> None:
    body = {"namespace": "team", "name": "repeated", "specs": ["six ==1.16.0"]}
    first = server.wait(server.post("/cetool/1/requests", body).json["build"])
    answer = server.post(f"/cetool/1/builds/{first['id']}/rebuild")
    assert answer.status == 202
    again = server.wait(answer.json["build"])
    assert (again["status"], again["origin"], again["refresh"]) == ("COMPLETED", "rebuild", True)
    assert again["platforms"][0]["lock"] == built["platforms"][0]["lock"]


def uploaded(server: RunningServer, lock: list[dict[str, Any]], name: str) -> dict[str, Any]:
    spec = EnvironmentSpec.from_dict({"packages": [name], "channels": ["conda-forge"]})
    body = {"spec": spec.as_dict(), "platform": current_platform(), "conda": lock}
    answer = server.post("/cetool/1/answers", body)
    assert answer.status == 202, answer.text
    return server.wait(answer.json["build"])


def test_an_uploaded_solution_becomes_the_answer_if_a_solve_agrees(
    server: RunningServer, built: dict[str, Any]
) -> None:
    packages = server.get(f"/cetool/1/builds/{built['id']}/packages").json["packages"]
    lock = [{key: value for key, value in each.items() if key != "kind"} for each in packages]
    found = uploaded(server, lock, "six <1.17")
    assert (found["status"], found["origin"]) == ("COMPLETED", "upload"), found
    digest = found["platforms"][0]["request"]
    assert server.get(f"/cetool/1/answers/{current_platform()}/{digest}").status == 200


def test_an_uploaded_solution_that_a_solve_contradicts_is_refused(server: RunningServer, built: dict[str, Any]) -> None:
    packages = server.get(f"/cetool/1/builds/{built['id']}/packages").json["packages"]
    lock = [{key: value for key, value in each.items() if key != "kind"} for each in packages]
    forged = [{**each, "sha256": "a" * 64} if each["name"] == "six" else each for each in lock]
    found = uploaded(server, forged, "six >=1.16,<1.17")
    assert found["status"] == "FAILED" and found["reason"], found
    digest = found["platforms"][0]["request"]
    assert server.get(f"/cetool/1/answers/{current_platform()}/{digest}").status == 404


def test_a_malformed_solution_is_refused(server: RunningServer) -> None:
    spec = {"packages": ["six"]}
    for body in (
        {"spec": {"packages": 7}, "platform": "linux-64", "conda": []},
        {"spec": spec, "platform": "linux-64", "conda": []},
        {"spec": spec, "platform": "linux-64", "conda": [{"name": "six"}]},
        {"spec": spec, "platform": "linux-64", "conda": [7]},
    ):
        answer = server.post("/cetool/1/answers", body)
        assert answer.status in (400, 422), answer.text


def test_the_document_of_the_api_describes_every_route(server: RunningServer) -> None:
    document = server.get("/cetool/1/openapi.json").json
    assert document["openapi"].startswith("3.")
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in set(part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]):
        assert reference in schemas
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert route["description"], (method, path)
            assert {"400", "422", "503"} <= route["responses"].keys()
