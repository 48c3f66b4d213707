"""What requests may ask for, read by the readers of the command line: in process, without builders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.builds import result
from support.home import Home

from cetool.base.errors import CetoolError
from cetool.declare.platforms import current_platform
from cetool.server import changing
from cetool.server.access import Grant, Principal
from cetool.server.config import ServerConfig
from cetool.server.data import builds, leases, namespaces
from cetool.server.journal import Journal
from cetool.server.policies import policy_of
from cetool.server.server import Server, open_server
from cetool.server.submitting import Submission, Submitted, rebuild, submit

ADMIN = Principal("root", grants=(Grant("*/*", "admin"),), authenticated=True)


@pytest.fixture
def server(home: Home, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server without builders."""
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    return open_server(ServerConfig(home.path / "server", storage_threshold=None), Journal())


def ask(server: Server, text: str, name: str | None = "web", **more: Any) -> Submitted:
    """Submit a text for an environment of the namespace ``team``."""
    return submit(server, Submission("team", name, text, ADMIN, **more))


def refused(server: Server, text: str, **more: Any) -> CetoolError:
    """Return the error for a text."""
    with pytest.raises(CetoolError) as caught:
        ask(server, text, **more)
    return caught.value


def spec_of(server: Server, number: int) -> dict[str, object]:
    """Return the specification of a build on its first platform."""
    with server.database.read() as tx:
        return dict(builds.platforms_of(tx, number)[0].spec or {})


SCRIPT = "#!/usr/bin/env cetool\n# conda execute\n# env:\n#  - python\n#  - six\nprint(1)\n"


@pytest.mark.parametrize(
    ("text", "packages"),
    [
        ("dependencies: [python, six]\n", ["python", "six"]),
        ("channels: [conda-forge]\ndependencies:\n  - python\n  - pip:\n    - six\n", ["python"]),
        (SCRIPT, ["python", "six"]),
        ("python >=3\nsix\n", ["python >=3", "six"]),
        ("# /// script\n# dependencies = ['six']\n# ///\nimport six\n", ["python"]),
    ],
)
def test_texts_of_all_kinds_are_recognized(server: Server, text: str, packages: list[str]) -> None:
    assert spec_of(server, ask(server, text).build_id)["packages"] == packages


def test_identical_requests_have_one_build(server: Server) -> None:
    first = ask(server, SCRIPT)
    again = ask(server, "dependencies: [six, python]\n")
    assert (again.build_id, again.created) == (first.build_id, False)
    other = ask(server, SCRIPT, name="other")
    assert other.created and other.build_id != first.build_id


def test_platforms_and_profiles_are_part_of_the_request(server: Server) -> None:
    found = ask(server, SCRIPT, platforms=("osx-arm64", "linux-64"), profile="cuda12")
    with server.database.read() as tx:
        parts = builds.platforms_of(tx, found.build_id)
    assert [each.platform for each in parts] == ["linux-64", "osx-arm64"]
    assert dict(parts[0].spec or {})["virtual-packages"] == {"__cuda": "12.8"}
    assert "virtual-packages" not in dict(parts[1].spec or {})
    assert refused(server, SCRIPT, platforms=("linux-46",)).code == "platform-invalid"
    assert refused(server, SCRIPT, profile="cuda99").code == "request-malformed"


def test_an_error_has_its_line(server: Server) -> None:
    error = refused(server, "channels: [conda-forge]\ndependencies:\n  - python\n  - 'six =='\n", filename="web.yml")
    assert error.where is not None and (error.where.path, error.where.line) == ("web.yml", 4)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("dependencies: [python, {pip: [-r requirements.txt]}]", "requirement-invalid"),
        ("dependencies: [python, {pip: [-r /etc/passwd]}]", "requirement-invalid"),
        ("dependencies: [python, {pip: [-e .]}]", "requirement-invalid"),
        ("dependencies: [python, {pip: [./x.whl]}]", "channel-refused"),
        ("dependencies: [python, {pip: ['six @ file:///etc/six.whl']}]", "channel-refused"),
        ("dependencies: [python, {pip: ['six @ http://pypi.example.org/six.whl']}]", "channel-refused"),
        ("dependencies: [python, {pip: ['--index-url https://10.0.0.1/simple', six]}]", "channel-refused"),
        ("dependencies: [python, {pip: ['--index-url https://u:p@pypi.example.org/simple', six]}]", "secret-refused"),
        ("channels: [file:///srv/channel]\ndependencies: [python]", "channel-refused"),
        ("channels: [./channel]\ndependencies: [python]", "channel-refused"),
        ("channels: [~/channel]\ndependencies: [python]", "*"),
        ("channels: [http://conda.example.org/x]\ndependencies: [python]", "channel-refused"),
        ("channels: [https://localhost/x]\ndependencies: [python]", "channel-refused"),
        ("channels: [https://169.254.169.254/x]\ndependencies: [python]", "channel-refused"),
        ("channels: ['https://[::1]/x']\ndependencies: [python]", "channel-refused"),
        ("channels: [https://2130706433/x]\ndependencies: [python]", "channel-refused"),
        ("channels: [https://metadata/x]\ndependencies: [python]", "channel-refused"),
        ("channels: [https://user:secret@conda.example.org/x]\ndependencies: [python]", "secret-refused"),
        ("channels: [https://conda.example.org/t/tk-12345678-1234/x]\ndependencies: [python]", "secret-refused"),
        ("dependencies: ['https://127.0.0.1/noarch/six-1-0.conda']", "channel-refused"),
        ("# conda execute\n# base: /usr\n# overlay: [six]\n", "request-malformed"),
        ("# conda execute\n# env: [six]\n# baseline: https://example.org/b.txt\n", "request-malformed"),
        ("dependencies: []", "environment-file-malformed"),
        ("", "request-malformed"),
    ],
)
def test_requests_cannot_reach_into_the_server(server: Server, text: str, code: str) -> None:
    error = refused(server, text)
    assert code in ("*", error.code)
    assert "secret" not in f"{error} {error.hint} {error.about}" and "12345678" not in f"{error} {error.about}"
    with server.database.read() as tx:
        assert builds.count(tx, builds.BuildQuery()) == 0


def test_a_channel_that_is_listed_may_be_anywhere(server: Server) -> None:
    with server.database.write() as tx:
        namespaces.ensure(tx, "team", by="root")
        namespaces.set_setting(tx, "", "channels-allowed", ["conda-forge", "file:///srv/*"])
    text = "channels: [file:///srv/channel, nodefaults]\ndependencies: [python]\n"
    assert spec_of(server, ask(server, text).build_id)["channels"] == ["file:///srv/channel"]
    assert refused(server, "channels: [bioconda]\ndependencies: [python]\n").code == "not-allowed"
    assert refused(server, "dependencies: ['bioconda::python']\n").code == "not-allowed"


def test_settings_of_a_namespace_only_narrow_what_the_server_allows(server: Server) -> None:
    private = "http://169.254.169.254/latest"
    with server.database.write() as tx:
        namespaces.ensure(tx, "team", by="root")
        namespaces.set_setting(tx, "", "channels-allowed", ["conda-forge", "bioconda"])
        namespaces.set_setting(tx, "", "packages-allowed", ["python", "six"])
        namespaces.set_setting(tx, "team", "channels-allowed", ["*"])
        namespaces.set_setting(tx, "team", "channels-default", [private])
        namespaces.set_setting(tx, "team", "packages-allowed", ["*"])
    assert refused(server, "dependencies: [python]\n").code == "not-allowed"
    assert refused(server, "channels: [pytorch, nodefaults]\ndependencies: [python]\n").code == "not-allowed"
    assert refused(server, "channels: [bioconda]\ndependencies: [numpy]\n").code == "not-allowed"
    with server.database.write() as tx:
        namespaces.set_setting(tx, "team", "channels-default", None)
        namespaces.set_setting(tx, "team", "channels-allowed", ["conda-forge"])
    assert refused(server, "channels: [bioconda]\ndependencies: [python]\n").code == "not-allowed"
    assert spec_of(server, ask(server, "dependencies: [python]\n").build_id)["channels"] == ["conda-forge"]
    with server.database.write() as tx:
        namespaces.set_setting(tx, "", "channels-allowed", None)
        for key in ("channels-allowed", "channels-default", "channels-required"):
            namespaces.set_setting(tx, "team", key, [private])
    assert refused(server, "dependencies: [python]\n").code == "channel-refused"
    with server.database.read() as tx:
        assert policy_of(server.config, namespaces.levels(tx, "team")).usable_channels == ()
        assert policy_of(server.config, namespaces.levels(tx)).usable_channels == ("conda-forge",)


def test_settings_of_a_namespace_add_and_limit_packages(server: Server) -> None:
    with server.database.write() as tx:
        namespaces.ensure(tx, "team", by="root")
        namespaces.set_setting(tx, "team", "packages-required", ["python >=3"])
        namespaces.set_setting(tx, "team", "packages-allowed", ["python", "six", "num*"])
        namespaces.set_setting(tx, "team", "channels-required", ["bioconda"])
        namespaces.set_setting(tx, "team/web2", "channels-required", [])
    spec = spec_of(server, ask(server, "dependencies: [numpy]\n").build_id)
    assert spec["packages"] == ["numpy", "python >=3"]
    assert spec["channels"] == ["conda-forge", "bioconda"]
    # what the namespace requires, an environment cannot leave out
    spec = spec_of(server, ask(server, "dependencies: [numpy]\n", name="web2").build_id)
    assert spec["channels"] == ["conda-forge", "bioconda"]
    assert refused(server, "dependencies: [requests]\n").code == "not-allowed"
    assert refused(server, "dependencies: [python, {pip: [requests]}]\n").code == "not-allowed"


def test_a_contributor_creates_environments_but_moves_none_of_others(server: Server) -> None:
    contributor = Principal("cleo", grants=(Grant("team/*", "contributor"),), authenticated=True)

    def contribute(text: str, name: str) -> int:
        return submit(server, Submission("team", name, text, contributor)).build_id

    ask(server, "python\n")
    built(server)
    with pytest.raises(CetoolError) as caught:
        contribute("six\n", "web")
    assert caught.value.code == "not-allowed" and "environment::update" in caught.value.message
    for text in ("numpy\n", "six\n"):
        contribute(text, "mine")
        built(server)
    waiting = contribute("zlib\n", "mine")
    assert changing.cancel_build(server, contributor, waiting).status == "CANCELED"
    number = ask(server, "pip\n", "mine").build_id
    with pytest.raises(CetoolError) as caught:
        changing.cancel_build(server, contributor, number)
    assert caught.value.code == "not-allowed"
    built(server)
    with pytest.raises(CetoolError) as caught:
        contribute("six\n", "mine")
    assert caught.value.code == "not-allowed"


def built(server: Server) -> None:
    """Complete the build that waits."""
    with server.database.write() as tx:
        claim = leases.claim(tx, "test", 60)
        assert claim is not None
        leases.complete(tx, claim, result(claim, "python"))


def test_rights_and_the_queue_are_checked_first(server: Server, home: Home) -> None:
    viewer = Principal("ana", grants=(Grant("team/*", "viewer"),), authenticated=True)
    with pytest.raises(CetoolError) as caught:
        submit(server, Submission("team", "web", "dependencies: [", viewer))
    assert caught.value.code == "not-allowed"
    editor = Principal("ana", grants=(Grant("team/*", "editor"),), authenticated=True)
    with pytest.raises(CetoolError) as caught:
        submit(server, Submission("team", "web", SCRIPT, editor))  # it would create the namespace
    assert caught.value.code == "not-allowed"
    full = open_server(ServerConfig(home.path / "server", storage_threshold=None, queue_length=1), Journal())
    ask(full, "six")
    assert refused(full, "python").code == "rate-limited"
    narrow = open_server(ServerConfig(home.path / "server", storage_threshold=1 << 60), Journal())
    assert refused(narrow, "python").code == "disk-full"


EXPLICIT = f"@EXPLICIT\nhttps://conda.anaconda.org/conda-forge/noarch/six-1.16.0-0.conda#sha256:{'a' * 64}\n"


def test_locks_are_requests_for_exactly_their_packages(server: Server) -> None:
    found = ask(server, EXPLICIT)
    with server.database.read() as tx:
        (part,) = builds.platforms_of(tx, found.build_id)
    assert part.platform == current_platform()
    assert dict(part.spec or {})["explicit"] == EXPLICIT.splitlines()[1:]
    assert refused(server, EXPLICIT.partition("#")[0]).code == "lock-impossible"
    assert refused(server, EXPLICIT.replace("https://conda.anaconda.org", "file:///srv")).code == "channel-refused"
    package = {"name": "six", "version": "1.16.0", "manager": "conda", "platform": "osx-64", "dependencies": {}}
    package |= {"url": EXPLICIT.splitlines()[1].partition("#")[0], "hash": {"sha256": "a" * 64}}
    whole = {"version": 1, "metadata": {"platforms": ["osx-64"], "channels": []}, "package": [package]}
    document = json.dumps(whole)
    found = ask(server, document)
    with server.database.read() as tx:
        assert [each.platform for each in builds.platforms_of(tx, found.build_id)] == ["osx-64"]
    assert refused(server, document, platforms=("linux-64",)).code == "lock-platform-missing"


def test_rebuild_is_a_new_build_of_the_same_request(server: Server) -> None:
    first = ask(server, SCRIPT)
    number = rebuild(server, first.build_id, ADMIN)
    assert number != first.build_id
    assert spec_of(server, number) == spec_of(server, first.build_id)
    assert rebuild(server, first.build_id, ADMIN) == number


def test_names_cannot_leave_the_directory_of_links(server: Server) -> None:
    for name in ("..", ".", "a/b", "", "x" * 256, "a\nb"):
        assert refused(server, SCRIPT, name=name).code == "request-malformed"
    assert not Path(server.config.data / "names").exists()
