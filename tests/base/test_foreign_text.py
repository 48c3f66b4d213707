"""What scripts, locks, baselines and records say is data: nothing in it is expanded, by cetool or by what it starts."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archive import Package, write_package
from support.home import Home
from support.notebooks import notebook
from support.web import Server, sends, serving

import cetool
from cetool.declare.metadata import read_metadata
from cetool.declare.platforms import current_platform
from cetool.declare.source import script_from_text

SECRET = "c4n4ry-0f-a-s3cr3t"
VARIABLES = ("AWS_SECRET_ACCESS_KEY", "HOME")
#: How variables are written; braces are refused in many places, so they are tried by themselves.
FORMS = {
    "plain": "/".join(f"${name}" for name in VARIABLES),
    "braces": "/".join(f"${{{name}}}" for name in VARIABLES),
    "percent": "/".join(f"%{name}%" for name in VARIABLES),
}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
HEAD = "# conda execute\n"
DIGEST = "ab" * 32


@pytest.fixture
def web() -> Iterator[Server]:
    """A server over HTTP that has nothing."""
    with serving() as server:
        yield server


Make = Callable[[Home, str], list[str]]
MAKERS: dict[str, Make] = {}


def script(text: str, name: str = "s.sh", *more: str) -> Make:
    """Writes a script with URL replaced in it; the words that run it."""
    return lambda home, url: ["run", *more, str(home.write(name, text.replace("URL", url)))]


def beside(suffix: str, text: str, declares: str = "# env: [x]\n") -> Make:
    """A script with another file, its lock say, next to it."""

    def make(home: Home, url: str) -> list[str]:
        replaced = text.replace("URL", url).replace("SUBDIR", current_platform())
        other = home.write(f"s.sh{suffix}", replaced)
        return ["run", str(home.write("s.sh", HEAD + declares.replace("OTHER", str(other))))]

    return make


def embedded(home: Home, url: str) -> list[str]:
    """A script with a lock in it."""
    text = f"{HEAD}# env: [x]\n"
    request = read_metadata(script_from_text(text, "/x", "x")).requirements.digest
    content = [f"platform: {current_platform()} {request}", f"{url}/noarch/x-1.0-0.conda#sha256:{DIGEST}"]
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()
    rows = ["/// cetool-lock", "version: 1", f"digest: {digest}", *content, "///"]
    return ["run", str(home.write("s.sh", text + "\n" + "".join(f"# {row}\n" for row in rows)))]


def record(home: Home, url: str) -> list[str]:
    """A run record whose packages are elsewhere."""
    path = home.path / "run.json"
    path.unlink(missing_ok=True)
    done = home.cetool("run", "--record", path, home.write("r.sh", f"{HEAD}# env: [hello-bin]\n# run_with: sh\n"))
    assert done.returncode == 0, done.stderr
    recorded = json.loads(path.read_text())
    channel = recorded["packages"][0]["url"].rsplit("/", 2)[0]
    text = path.read_text().replace(channel, url)
    path.write_text(text.replace(recorded["environment"]["name"], "0" * 20))
    shutil.rmtree(home.cache)  # what is there already is not fetched
    return ["rerun", "--here", str(path)]


EXPLICIT = f"@EXPLICIT\nURL/noarch/x-1.0-0.conda#sha256:{DIGEST}\n"
CONDA_LOCK = f"""\
version: 1
metadata:
  content_hash: {{SUBDIR: x}}
  channels: [{{url: URL, used_env_vars: []}}]
  platforms: [SUBDIR]
  sources: []
package:
- name: x
  version: '1.0'
  manager: conda
  platform: SUBDIR
  dependencies: {{}}
  url: URL/noarch/x-1.0-0.conda
  hash: {{sha256: {DIGEST}}}
  category: main
  optional: false
"""
PIXI_LOCK = f"""\
version: 6
environments:
  default:
    channels: [{{url: URL/}}]
    packages:
      SUBDIR:
      - conda: URL/noarch/x-1.0-0.conda
packages:
- conda: URL/noarch/x-1.0-0.conda
  sha256: {DIGEST}
"""
MAKERS |= {
    "channel": script(f"{HEAD}# channels: ['URL']\n# env: [x]\n"),
    "channel of a spec": script(f"{HEAD}# env: ['URL::x']\n"),
    "package": script(f"{HEAD}# env: ['URL/noarch/x-1.0-0.conda']\n"),
    "pep723": script("# /// script\n# dependencies = []\n# [tool.conda]\n# channels = ['URL']\n# ///\n", "s.py"),
    "pixi": script(
        "# /// script\n# dependencies = []\n# [tool.pixi.workspace]\n# channels = ['URL']\n"
        "# [tool.pixi.dependencies]\n# x = '*'\n# ///\n",
        "s.py",
    ),
    "conda-script": script(
        "# /// conda-script\n# channels = ['URL']\n# entrypoint = 'true'\n# [dependencies]\n# x = '*'\n"
        "# /// end-conda-script\n"
    ),
    "notebook": script(notebook(f"{HEAD}# channels: ['URL']\n# env: [x]"), "s.ipynb"),
    "baseline at a URL": script(f"{HEAD}# baseline: 'URL/b.txt'\n# env: [x]\n", "s.sh", "--insecure"),
    "baseline": beside(".txt", EXPLICIT, "# baseline: OTHER\n"),
    "conda-lock.yml": beside(".conda-lock.yml", CONDA_LOCK),
    "pixi.lock": beside(".pixi.lock", PIXI_LOCK),
    "embedded lock": embedded,
    "record": record,
}


def leaks(home: Home, web: Server, told: str) -> list[str]:
    """Where a variable's value is that has no business there: requests, output, files."""
    found = [path for path, _ in web.requests if SECRET in path or home.path.name in path]
    found += [line for line in told.splitlines() if SECRET in line]
    for path in home.path.rglob("*"):
        if SECRET in path.name or (path.is_file() and SECRET.encode() in path.read_bytes()):
            found.append(str(path))
    return found


@FORM
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_url_is_asked_for_as_it_is_written(home: Home, web: Server, make: Make, form: str) -> None:
    web.answers["/"] = sends(status=404)
    words = make(home, f"{web.url}/{form}")
    done = home.cetool(*words, env={VARIABLES[0]: SECRET, "CONDA_REMOTE_MAX_RETRIES": "0"})
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert not leaks(home, web, done.stdout + done.stderr)
    if form == FORMS["plain"]:  # that nothing was asked for is no proof
        asked = [path.replace("%24", "$") for path, _ in web.requests]
        assert any(f"/{form}/" in path for path in asked), (done.stderr, web.requests)


@FORM
def test_values_and_words_are_what_they_are(settled: Home, form: str) -> None:
    env = {VARIABLES[0]: SECRET}
    text = f"{HEAD}# env: [hello-bin]\n# variables: {{A: '{form}'}}\n"
    printed = settled.cetool("run", settled.write("v.sh", f"{text}# run_with: sh\nprintenv A\n"), env=env)
    assert printed.stdout == f"{form}\n", printed.stderr
    echoed = settled.cetool("run", settled.write("e.sh", f"{text}# run_with: [/bin/echo, '{form}']\n"), env=env)
    assert echoed.stdout.startswith(f"{form} "), echoed.stderr
    file = settled.write("environment.yml", f"dependencies: [hello-bin]\nvariables: {{A: '{form}'}}\n")
    script = settled.write("f.sh", "printenv A\n")
    assert settled.cetool("run", "--env-file", file, script, env=env).stdout == f"{form}\n"
    base = settled.cetool("run", settled.write("b.sh", f"{HEAD}# base: '/nowhere/{form}'\n"), env=env)
    assert f"/nowhere/{form}" in base.stderr and SECRET not in base.stderr


#: A stand-in for conda or micromamba that keeps all that it is handed.
STAND_IN = """\
#!{python}
import os, sys
if "--version" in sys.argv:
    print("{version}")
    sys.exit()
with open({kept!r}, "a") as kept:
    print(*sys.argv[1:], file=kept)
    files = [sys.argv[at + 1] for at, word in enumerate(sys.argv) if word == "--file"]
    for name in filter(None, [*files, os.environ.get("CONDARC")]):
        print(open(name).read(), file=kept)
sys.exit("no")
"""


@pytest.mark.parametrize("engine", ["conda", "micromamba"])
@pytest.mark.parametrize("name", ["channel", "channel of a spec", "package", "embedded lock", "credentials"])
def test_engines_get_nothing_that_they_would_expand(home: Home, engine: str, name: str) -> None:
    kept = home.path / "kept"
    version = "conda 26.7.1" if engine == "conda" else "2.8.1"
    home.write(
        f"bin/{engine}", STAND_IN.format(python=sys.executable, version=version, kept=str(kept)), executable=True
    )
    makers = {**MAKERS, "credentials": script(f"{HEAD}# channels: ['URL']\n# env: [x, 'URL::y']\n")}
    for form in FORMS.values():
        url = f"http://{'me:se$HOME@' if name == 'credentials' else ''}host.example/{form}"
        if name == "package":  # cetool itself fetches it first, so there has to be one
            channel = home.path / "served" / form
            write_package(Package("x", "1.0"), channel)
            url = f"file://{channel}"
        done = home.cetool(*makers[name](home, url), env={"CETOOL_ENGINE": engine, VARIABLES[0]: SECRET})
        assert done.returncode == 125, done.stderr
    text = kept.read_text()
    assert "%24HOME" in text and "$" not in text and SECRET not in text
    assert not any(f"%{variable}%" in text for variable in VARIABLES)


def test_only_the_users_own_words_are_expanded() -> None:
    """A file that is new here: does what it expands come from the user's configuration, variables or command line?"""
    allowed = {
        "settings/paths.py",
        "declare/channels.py",
        "declare/source.py",
        "launch/shells.py",
        "launch/kernels.py",
        "app/build_apart.py",  # the home directory, to hide it
        "server/config_values.py",  # the operator's configuration
    }
    root = Path(cetool.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("expandvars", "expanduser", "Template")
    }
    assert found <= allowed
    assert os.name == "nt" or "declare/source.py" in found
