"""Changing baselines: environments stay unchanged, and the change is reported once, at no cost to warm runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.baselines import Shelf, explicit, small
from support.home import Home
from support.locked import explicit_list
from support.pypi import wheel
from support.scripts import eventually, unconfirmed
from support.warm import is_warm, learn, run_warm, settle
from support.web import Server, make_certificate, sends, sends_if_changed, serving

CHANGED = "has changed since this environment was made"
warm_path = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    made = Shelf(tmp_path_factory.mktemp("shelf"), {})
    made.put(small("alpha", "1.0"), small("alpha", "2.0"), small("beta", "1.0"), small("gamma", "1.0"))
    return made


@pytest.fixture
def trusting(home: Home, web: Server, certificate: Path) -> Home:
    return Home(home.path, {**home.env, "SSL_CERT_FILE": str(certificate.parent / "cert.pem")})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def web(certificate: Path) -> Iterator[Server]:
    with serving(certificate) as server:
        yield server


def standard(shelf: Shelf, *stems: str) -> str:
    return explicit(shelf.lines(shelf.root.as_uri(), stems))


def script(home: Home, shelf: Shelf, baseline: str, more: str = "", name: str = "a.sh") -> Path:
    block = f"# baseline: {baseline}\n# channels: ['{shelf.root.as_uri()}/shelf']\n{more}"
    return home.write(name, f"#!/bin/sh\n# conda execute\n{block}\ncat $CONDA_PREFIX/share/*/version\n")


def run(home: Home, *args: str | Path, status: int = 0, **more: Any) -> tuple[str, str]:
    done = home.cetool(*args, **more)
    assert done.returncode == status, done.stderr
    return done.stdout, unconfirmed(done.stderr)


def a_day_passes(home: Home) -> None:
    """Return the state of the baseline store, by its files' times."""
    for path in (home.cache / "baselines").rglob("*"):
        if path.is_file() and path.parent.name != "news":
            os.utime(path, (time.time() - 90000,) * 2)
    for path in (home.cache / "baselines" / "news").glob("*"):
        told = json.loads(path.read_bytes())
        path.write_text(json.dumps({**told, "told": told["told"] and told["told"] - 90000}))


def news(home: Home) -> list[Path]:
    return list((home.cache / "baselines" / "news").glob("*"))


# --- local files ------------------------------------------------------------------------------------------------------


@warm_path
def test_a_changed_file_is_reported_once_and_used_on_request(home: Home, shelf: Shelf) -> None:
    baseline = home.write("standard.txt", standard(shelf, "alpha-1", "beta"))
    path = script(home, shelf, "standard.txt")
    settle(baseline)
    assert learn(home, path) == "1.01.0" and is_warm(home, path)
    baseline.write_text(baseline.read_text() + "# only words\n")
    assert not is_warm(home, path) and run(home, path) == ("1.01.0", "")
    baseline.write_text(standard(shelf, "alpha-2", "beta"))
    before, said = run(home, path)
    assert before == "1.01.0" and CHANGED in said and "(1 package differs)" in said and said.count("\n") == 1
    settle(baseline, *news(home))
    assert run(home, path) == ("1.01.0", "")  # reported once
    assert is_warm(home, path)
    assert run(home, "baseline", "status", path)[0].splitlines()[1:] == ["  alpha: 1.0 0 -> 2.0 0"]
    a_day_passes(home)
    assert CHANGED in run(home, path)[1]
    assert CHANGED not in run(home, "-q", path)[1]
    assert run(home, "run", "--refresh", path) == ("2.01.0", "")
    settle(baseline, path)
    assert run(home, path) == ("2.01.0", "") and is_warm(home, path) and news(home) == []
    document = json.loads(run(home, "baseline", "status", "--json", path)[0])
    assert document["baselines"][0]["state"] == "current" and document["changes"] == []


def test_an_existing_environment_does_not_need_the_file(home: Home, shelf: Shelf) -> None:
    """Not even to re-create it; another script, which uses the baseline for the first time, does not matter."""
    baseline = home.write("standard.txt", standard(shelf, "alpha-1"))
    path, other = script(home, shelf, "standard.txt"), script(home, shelf, "standard.txt", name="b.sh")
    assert run(home, path)[0] == "1.0"
    baseline.write_text(standard(shelf, "alpha-2"))
    assert run(home, other) == ("2.0", "")
    baseline.unlink()
    shutil.rmtree(home.cache / "envs")
    assert run(home, path) == ("1.0", "")
    _, said = run(home, script(home, shelf, "standard.txt", name="c.sh"), status=125)
    assert "standard.txt" in said


def test_a_failed_refresh_changes_nothing(home: Home, shelf: Shelf) -> None:
    baseline = home.write("standard.txt", standard(shelf, "alpha-1"))
    path = script(home, shelf, "standard.txt", "# env: ['alpha <2']\n")
    assert run(home, path)[0] == "1.0"
    baseline.write_text(standard(shelf, "alpha-2"))
    assert "conflicts with the baseline" in run(home, "run", "--refresh", path, status=125)[1]
    baseline.write_text(standard(shelf, "alpha-2").replace("alpha-2.0", "alpha-9.0"))
    assert run(home, path)[0] == "1.0"


def test_gc_keeps_baselines_of_existing_scripts(home: Home, shelf: Shelf) -> None:
    home.write("standard.txt", standard(shelf, "alpha-1"))
    path, other = script(home, shelf, "standard.txt"), script(home, shelf, "standard.txt", name="b.sh")
    run(home, path)
    run(home, other)
    other.unlink()
    uses = home.cache / "baselines" / "uses"
    for use in uses.iterdir():
        os.utime(use, (time.time() - 40 * 86400,) * 2)
    run(home, "gc")
    assert len(list(uses.iterdir())) == 1
    home.write("standard.txt", standard(shelf, "alpha-2"))
    assert run(home, path)[0] == "1.0"


# --- URLs -------------------------------------------------------------------------------------------------------------


@warm_path
def test_a_url_is_checked_in_the_background_once_a_day(trusting: Home, shelf: Shelf, web: Server) -> None:
    home, url = trusting, f"{web.url}/standard.txt"
    web.answers["/standard.txt"] = sends_if_changed(standard(shelf, "alpha-1", "beta").encode(), '"one"')
    path = script(home, shelf, url)
    learn(home, path)
    assert is_warm(home, path) and len(web.requests) == 1
    web.answers["/standard.txt"] = sends_if_changed(standard(shelf, "beta", "gamma").encode(), '"two"')
    run(home, path, env={"CETOOL_VERBOSITY": "normal"})
    assert len(web.requests) == 1  # not asked again within the day
    a_day_passes(home)
    assert run(home, "-v", path)[0] == "1.01.0"  # no process waits for the one that asks
    eventually(lambda: news(home))
    settle(*news(home))
    assert len(web.requests) == 2 and not is_warm(home, path)
    output, said = run(home, path)
    assert output == "1.01.0" and f"baseline {url} {CHANGED} (2 packages differ)" in said
    settle(*news(home))
    assert run(home, path)[1] == "" and is_warm(home, path) and len(web.requests) == 2
    assert "--refresh applies them" in said and run(home, "run", "--refresh", path)[1] == ""
    assert len(web.requests) == 3 and news(home) == []


@warm_path
def test_any_hourly_cold_run_starts_the_check(trusting: Home, shelf: Shelf, web: Server) -> None:
    home = trusting
    web.answers["/s.txt"] = sends(standard(shelf, "alpha-1").encode())
    path = script(home, shelf, f"{web.url}/s.txt")
    run(home, path)
    a_day_passes(home)
    web.answers["/s.txt"] = sends(standard(shelf, "alpha-2").encode())
    os.utime(home.cache / "gc.stamp", (time.time() - 7200,) * 2)
    other = home.write("other.sh", "#!/bin/sh\n# conda execute\n# env: [hello-bin]\nhello\n")
    run(home, other)
    eventually(lambda: news(home))
    assert CHANGED in run(home, path)[1]
    # without collections, a warm run of the script becomes a cold one from time to time
    env = {"CETOOL_AUTO_GC": "false"}
    settle(*news(home))
    learn(home, path, env=env)
    assert is_warm(home, path, env=env)
    os.utime(home.cache / "baselines" / "looked", (time.time() - 7200,) * 2)
    assert run_warm(home, path, env=env).returncode != 0


def test_without_network_the_last_copy_is_used(trusting: Home, shelf: Shelf, web: Server) -> None:
    home, url = trusting, f"{web.url}/s.txt"
    web.answers["/s.txt"] = sends(standard(shelf, "alpha-1").encode())
    path = script(home, shelf, url)
    assert "--offline" in run(home, "run", "--offline", path, status=2)[1]
    assert run(home, path)[0] == "1.0"
    assert run(home, "run", "--offline", script(home, shelf, url, name="b.sh"))[0] == "1.0"
    web.answers["/s.txt"] = sends(b"<!DOCTYPE html>", Content_Type="text/html")
    _, said = run(home, script(home, shelf, url, name="c.sh"), status=125)
    assert "a web page, not to a baseline" in said
    assert run(home, "run", "--refresh", path, status=125)[1] and run(home, path) == ("1.0", "")
    (row,) = json.loads(run(home, "baseline", "status", "--json", path)[0])["baselines"]
    assert row["state"] == "unknown" and "web page" in row["problem"]


def test_no_request_is_made_for_a_script_without_consent(trusting: Home, shelf: Shelf, web: Server) -> None:
    home = trusting
    web.answers["/s.txt"] = sends(standard(shelf, "alpha-1").encode())
    path = script(home, shelf, f"{web.url}/s.txt")
    web.answers["/a.sh"] = sends(path.read_bytes())
    _, said = run(home, f"{web.url}/a.sh", status=125)
    assert "--yes" in said and [place for place, _ in web.requests] == ["/a.sh"]
    assert run(home, "run", "--yes", f"{web.url}/a.sh")[0] == "1.0"
    web.answers["/s.txt"] = sends(standard(shelf, "alpha-2").encode())
    assert run(home, f"{web.url}/a.sh")[0] == "1.0"


def test_plain_http_needs_an_option(home: Home, shelf: Shelf) -> None:
    with serving() as web:
        web.answers["/s.txt"] = sends(standard(shelf, "alpha-1").encode())
        path = script(home, shelf, f"{web.url}/s.txt")
        _, said = run(home, path, status=125)
        assert "a baseline must be fetched over https" in said and web.requests == []
        assert run(home, "run", "--insecure", path)[0] == "1.0"


# --- writing baselines, and packages from PyPI ------------------------------------------------------------------------


def test_a_created_baseline_can_be_used(home: Home, shelf: Shelf) -> None:
    home.write("standard.txt", standard(shelf, "alpha-1", "beta"))
    env = {"CETOOL_CHANNELS": f"{shelf.root.as_uri()}/shelf"}
    words = ("create", "--baseline", "standard.txt", "--without", "beta", "gamma")
    made = Path(run(home, *words, cwd=home.path, env=env)[0].strip())
    for name in ("new.txt", "new.yml", "pixi.lock"):
        run(home, "baseline", "create", made, "-o", home.path / name)
        again = Path(run(home, "create", "--baseline", home.path / name, "--refresh")[0].strip())
        assert explicit_list(again) == explicit_list(made)
    assert run(home, "baseline", "create", made.name)[0].count(shelf.root.as_uri()) == 2
    assert "no environment" in run(home, "baseline", "create", "nowhere", status=125)[1]


def test_packages_from_pypi_are_pinned_as_well(home: Home, shelf: Shelf) -> None:
    path = wheel(home.path / "wheels", "ours", "1.0")
    wheel(home.path / "wheels", "more", "1.0", "ours")
    run(home, "create", "python")
    python = json.loads(run(home, "list", "--json")[0])["environments"][0]["prefix"]
    lines = run(home, "baseline", "create", "--format", "conda-lock", python)[0].rstrip()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = "- name: ours\n  version: '1.0'\n  manager: pip\n  platform: linux-64\n  dependencies: {}\n"
    entry += f"  url: {path.as_uri()}\n"
    home.write("standard.yml", f"{lines}\n{entry}  hash:\n    sha256: {digest}\n  category: main\n  optional: false\n")
    text = "# /// script\n# dependencies = [{}]\n# [tool.cetool]\n# baseline = 'standard.yml'\n{}# ///\n"
    text += "import importlib.util as u\nprint(u.find_spec('ours') is not None, u.find_spec('more') is not None)\n"
    places = str(path.parent)
    env = {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "PIP_FIND_LINKS": places, "UV_FIND_LINKS": places}
    _, said = run(home, "-v", home.write("a.py", text.format("'ours >=1'", "")), env=env)
    assert "Solving" not in said
    assert run(home, home.write("b.py", text.format("'more'", "")), env=env)[0] == "True True\n"
    assert run(home, home.write("c.py", text.format("", "# without = ['ours']\n")), env=env)[0] == "False False\n"
    _, said = run(home, home.write("d.py", text.format("'ours >=2'", "")), env=env, status=125)
    assert "ours 1.0 from PyPI" in said and "without: [ours]" in said
