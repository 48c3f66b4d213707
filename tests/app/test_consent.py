"""Consent is a gate: no command passes it with a script from a URL, and its question shows every decision."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.notebooks import notebook
from support.scripts import environments
from support.terminal import converse
from support.web import Server, make_certificate, sends, serving

import cetool
from cetool.app.question import LABELS, UNSHOWN, rows_of, shown_line, wrapped
from cetool.base.errors import MetadataError
from cetool.base.process import Consent
from cetool.cli.app import make_app
from cetool.declare import environment, overlay
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import OverlayKeys, Requirements
from cetool.declare.source import script_from_text
from cetool.warm import COMMANDS

PROMPT = "[y/N]"


@dataclasses.dataclass
class Scene:
    """A home, a server over HTTPS with scripts, and one whose channels must not be accessed."""

    home: Home
    web: Server
    trap: Server
    sprung: Path

    def offer(self, name: str, text: str) -> str:
        """Return the URL of a script with this text."""
        self.web.answers[f"/{name}"] = sends(text.encode())
        return f"{self.web.url}/{name}"

    def forget(self) -> None:
        """Withdraw all answers."""
        shutil.rmtree(self.home.path / ".local/share/cetool/trust", ignore_errors=True)

    def refuses(self, *words: str, cwd: Path | None = None) -> str:
        """Return what is printed if the script may not run: the exit status is 125, and standard output is empty."""
        done = self.home.cetool(*words, cwd=cwd)
        assert (done.returncode, done.stdout) == (125, ""), done.stderr
        assert "no terminal to ask on" in done.stderr
        return done.stderr


@pytest.fixture
def scene(local_channel: Channel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("scene")
    certificate = make_certificate(place)
    home = make_home(place / "home", local_channel)
    home.env["SSL_CERT_FILE"] = str(place / "cert.pem")
    with serving(certificate) as web, serving() as trap:
        yield Scene(home, web, trap, place / "sprung")
    remove_home(home)


def sdist(scene: Scene) -> Path:
    """A source distribution that writes a file when it is built, and when its metadata is read."""
    setup = f"import pathlib, setuptools\npathlib.Path({str(scene.sprung)!r}).touch()\nsetuptools.setup(name='evil')\n"
    path = scene.sprung.with_name("evil-1.0.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("setup.py", setup), ("PKG-INFO", "Metadata-Version: 1.0\nName: evil\nVersion: 1.0\n")):
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def base(scene: Scene) -> Path:
    """An environment whose python writes a file."""
    prefix = scene.sprung.with_name("base")
    (prefix / "bin").mkdir(parents=True)
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta/history").write_text("made\n")
    (prefix / "bin/python").write_text(f"#!/bin/sh\ntouch '{scene.sprung}'\nexit 1\n")
    (prefix / "bin/python").chmod(0o755)
    return prefix


def locked(text: str, *lines: str) -> str:
    """A conda-execute script with an embedded lock of these lines, which fits its declaration."""
    request = read_metadata(script_from_text(text, "/x", "x")).requirements.digest
    content = [f"platform: {current_platform()} {request}", *lines]
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()
    rows = ["/// cetool-lock", "version: 1", f"digest: {digest}", *content, "///"]
    return text + "\n" + "".join(f"# {row}\n" for row in rows)


def hostile(scene: Scene) -> dict[str, str]:
    """Scripts that cause execution or downloads, by their names on the server."""
    channel, evil = f"{scene.trap.url}/channel", sdist(scene).as_uri()
    baseline = f"{scene.web.url}/baseline.txt"
    scene.web.answers["/baseline.txt"] = sends(b"@EXPLICIT\n")
    package = f"{channel}/noarch/x-1.0-0.conda#sha256:{'ab' * 32}"
    wheel = f"evil==1.0 @ {scene.trap.url}/evil-1.0-py3-none-any.whl#sha256={'cd' * 32}"
    head = f"# conda execute\n# channels: [{channel}]\n"
    touch = f"# run_with: [/usr/bin/touch, '{scene.sprung}']\n"
    return {
        "overlay.sh": f"{head}# base: {base(scene)}\n# overlay: ['evil @ {evil}']\n# conda: [x]\n{touch}",
        "sdist.sh": f"{head}# env: [python, pip: ['evil @ {evil}']]\n{touch}",
        "baseline.sh": f"{head}# env: [x]\n# baseline: {baseline}\n{touch}",
        "locked.sh": locked(f"{head}# env: [x, pip: [evil]]\n{touch}", package, wheel),
        "pep723.py": f"# /// script\n# dependencies = ['evil @ {evil}']\n# [tool.conda]\n# channels = ['{channel}']\n"
        "# ///\n",
        "conda-script.sh": f"# /// conda-script\n# channels = ['{channel}']\n# entrypoint = '/usr/bin/touch "
        f"{scene.sprung}'\n# [dependencies]\n# x = '*'\n# /// end-conda-script\n",
        "book.ipynb": notebook(f"# conda execute\n# channels: [{channel}]\n# env: [python, pip: ['evil @ {evil}']]"),
    }


def commands() -> list[list[str]]:
    """Return the words of every command that takes a script, with the options by which it does most."""
    more = {"check": ["--solve"], "export": ["--format", "requirements"]}
    found = []

    def look(command: Any, words: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            look(inner, [*words, name])
        if any("SCRIPT" in str(param.metavar) and param.param_type_name == "argument" for param in command.params):
            found.append([*words, *more.get(words[-1], [])])

    look(typer.main.get_command(make_app(*COMMANDS)), [])
    return found


#: Scripts for all commands, and scripts for commands that only make, solve or run.
WITH_ALL = ("overlay.sh", "sdist.sh")
WITH_SOME = ("baseline.sh", "locked.sh", "pep723.py", "conda-script.sh", "book.ipynb")


@pytest.mark.parametrize("name", [*WITH_ALL, *WITH_SOME])
def test_no_command_executes_or_fetches_anything_for_a_script_without_consent(scene: Scene, name: str) -> None:
    found = [["cetool", *words] for words in commands()] + [["conda-execute"]]
    some = {"run", "shell", "path", "lock", "check", "export", "show", "name"}
    assert {*some, "verify", "remove", "status", "activate"} <= {word for words in found for word in words}
    url = scene.offer(name, hostile(scene)[name])
    for words in found if name in WITH_ALL else [words for words in found if words[1:2] and words[1] in some]:
        done = scene.home.run(*words, url, env={"CETOOL_TRUST": "ask"}, timeout=60)
        told = f"{words}: {done.returncode} {done.stderr}"
        assert not scene.sprung.exists(), told
        assert scene.trap.requests == [], told
        assert {path.rpartition("/")[2] for path, _ in scene.web.requests} <= {name}, told
        assert "Traceback" not in done.stderr and "defect" not in done.stderr, told
    assert not environments(scene.home)


@pytest.mark.parametrize("name", ["overlay.sh", "sdist.sh", "baseline.sh", "locked.sh", "conda-script.sh"])
def test_scripts_run_after_consent(scene: Scene, name: str) -> None:
    """Check that the test above can fail: with consent, the forbidden things do happen."""
    url = scene.offer(name, hostile(scene)[name])
    scene.home.cetool("run", "--yes", url)
    asked = [path for path, _ in (*scene.trap.requests, *scene.web.requests) if not path.endswith(name)]
    assert scene.sprung.exists() or asked


def test_consent_only_comes_from_the_question() -> None:
    with pytest.raises(TypeError):
        Consent(object(), "asked")
    root = Path(cetool.__file__).parent
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "cetool.base.process"
        if any(alias.name == "issue" for alias in node.names)
    }
    assert callers == {"app/consent.py", "app/asking.py"}


# --- the question -----------------------------------------------------------------------------------------------------


def sample(kind: str) -> Any:
    """Return a value for a field of this type that contains SENTINEL."""
    if "tuple[tuple[" in kind:
        return (("SENTINEL", "1"),)
    return ("SENTINEL",) if "tuple[" in kind or "Sequence[" in kind else "SENTINEL"


def decided() -> dict[str, Any]:
    """Return the classes of declarations by name, including those in fields of others."""
    there = {**vars(environment), **vars(overlay)}
    found: dict[str, Any] = {}
    ahead: list[Any] = [ScriptMetadata]
    while ahead:
        kind = ahead.pop()
        found[kind.__name__] = kind
        words = {word for text in kind.__annotations__.values() for word in re.findall(r"\w+", str(text))}
        ahead += [there[word] for word in sorted(words - set(found)) if hasattr(there.get(word), "__annotations__")]
    return found


@pytest.mark.parametrize("kind", decided().values(), ids=decided())
def test_the_question_shows_every_field_or_has_a_reason(kind: Any) -> None:
    known = decided()
    assert {"Requirements", "PypiSettings", "OverlayKeys"} <= set(known)
    for name, annotation in kind.__annotations__.items():
        key, inner = f"{kind.__name__}.{name}", set(re.findall(r"\w+", str(annotation))) & set(known)
        if key in UNSHOWN or inner:
            continue  # its content has a separate test
        values = dict.fromkeys(kind.__annotations__, "") | {name: sample(str(annotation))}
        assert any("SENTINEL" in text for _, text in rows_of(kind(**values))), key
    for key in (*LABELS, *UNSHOWN):
        place, _, field = key.partition(".")
        assert field in known[place].__annotations__, f"{key} is gone"


def test_the_question_shows_nested_values() -> None:
    needs = Requirements(pypi_settings=PypiSettings("SENTINEL"), overlay=OverlayKeys("BASE"))
    assert {("index", "SENTINEL"), ("base", "BASE")} <= set(rows_of(ScriptMetadata("", "", None, needs, None)))


def test_every_field_of_a_specification_comes_from_the_question() -> None:
    sources = {
        "what": "Requirements and its baselines; the lock in the script, or a file of the user's",
        "channels": "Requirements, else the user's configuration",
        "pypi_settings": "Requirements",
        "variables": "Requirements",
        "virtual_packages": "the user's variables",
        "exclude_newer": "Requirements, or the command line",
        "solving": "Requirements",
    }
    new = set(EnvironmentSpec.__annotations__) - set(sources)
    assert not new, f"{new}: does the question show what they come from? (cetool/app/decision.py)"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example:/x@good.example/e-1.0.zip",
        "https://evil.example\\@good.example/e.zip",
        "https:/evil.example:/@good.example/e.zip",
        "https:evil.example/e.zip",
        "git+https://evil.example:x/x@good.example/e.git",
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        "# conda execute\n# env: [python, pip: [{}]]",
        "# conda execute\n# baseline: {}",
        "# /// script\n# dependencies = [{}]\n# ///",
        "# /// script\n# tool.uv.find-links = [{}]\n# ///",
        "# /// script\n# [[tool.uv.index]]\n# url = {}\n# ///",
    ],
)
def test_a_url_cannot_hide_its_host_as_a_password(url: str, line: str) -> None:
    """uv and pip would access evil.example, while the question would show https://***@good.example."""
    text = line.format(json.dumps(f"e @ {url}" if "pip" in line or "dependencies" in line else url))
    try:
        rows = rows_of(read_metadata(script_from_text(text + "\n\n", "/x/a.py", "a.py")))
    except MetadataError:
        return
    assert "evil.example" in " ".join(shown_line(value) for _, value in rows)


def test_the_question_shows_the_whole_decision(scene: Scene) -> None:
    mirror = "https://mirror.example/c"
    prefix = base(scene)
    script = (
        f"# conda execute\n# channels: [conda-forge, '{mirror}']\n# base: {prefix}\n"
        "# overlay: ['six @ https://wheels.example/six-1.0-py3-none-any.whl', 'git+https://code.example/a/b@v1']\n"
        "# conda: ['https://other.example/x/noarch/y-1-0.conda']\n"
        "# variables: {LD_PRELOAD: /tmp/x.so, BASH_ENV: /tmp/y, PLAIN: '1'}\n# run_with: [python, -u]\n"
    )
    shown = " ".join(scene.refuses("run", scene.offer("a.sh", script)).split())
    for fact in (
        "hosts: code.example, conda.anaconda.org, mirror.example, other.example, pypi.org, wheels.example",
        f"channels: [conda-forge, '{mirror}']",
        f"base: {prefix}",
        "six @ https://wheels.example/six-1.0-py3-none-any.whl",
        "git+https://code.example/a/b@v1",
        "https://other.example/x/noarch/y-1-0.conda",
        "LD_PRELOAD=/tmp/x.so",
        "BASH_ENV=/tmp/y",
        "PLAIN=1",
        "caution: LD_PRELOAD, BASH_ENV can make programs load other code",
        "run_with: [python, '-u']",
    ):
        assert fact.replace("conda.anaconda.org, ", "") in shown.replace("this machine, ", ""), (fact, shown)
    package, wheel = "https://a.example/c/noarch/x-1.0-0.conda", "https://b.example/six-1.0-py3-none-any.whl"
    text = "# conda execute\n# env: [x, pip: [six]]\n# baseline: https://c.example/b.txt\n# run_with: sh\n"
    carried = locked(text, f"{package}#sha256:{'ab' * 32}", f"six==1.0 @ {wheel}#sha256={'cd' * 32}")
    shown = " ".join(scene.refuses("run", scene.offer("b.sh", carried)).split())
    for fact in (
        "lock: in the script, 2 packages",
        "locked: https://a.example/c: x-1.0-0.conda",
        f"locked: {wheel}",
        "baseline: ['https://c.example/b.txt']",
    ):
        assert fact in shown
    assert "a.example, b.example, c.example" in shown
    # an answer to a question of the previous version did not cover the lock
    digest = hashlib.sha256(carried.encode()).hexdigest()
    answer = scene.home.path / f".local/share/cetool/trust/{digest}.json"
    answer.parent.mkdir(parents=True, mode=0o700)
    former = {"schema": "cetool.trusted/1", "sha256": digest, "url": "x", "date": 1.0, "how": "asked", "places": []}
    answer.write_text(json.dumps(former))
    scene.refuses("run", scene.offer("b.sh", carried))


def test_locking_another_platform_shows_its_declaration(scene: Scene) -> None:
    text = "# /// script\n# dependencies = []\n# [tool.pixi.workspace]\n# channels = ['conda-forge']\n"
    url = scene.offer("a.py", f"{text}# [tool.pixi.target.win-64.pypi-dependencies]\n# evil = '==1'\n# ///\n")
    assert "evil" not in scene.refuses("run", url)
    told = scene.refuses("lock", "--lock-file", "x.yml", "--platform", "win-64", "--platform", "linux-64", url)
    assert "[evil==1] (win-64)" in told


def test_nothing_is_truncated_and_absurd_sizes_are_refused(scene: Scene) -> None:
    last = "file:///tmp/hidden-channel"
    channels = ", ".join(f"'https://host.example/{number}/{'x' * 40}'" for number in range(40))
    text = f"# conda execute\n# channels: [{channels}, '{last}']\n# env: [x]\n# run_with: sh\n"
    lines = scene.refuses("run", scene.offer("a.sh", text)).splitlines()
    assert any(last in line for line in lines) and max(map(len, lines)) < 200
    many = "".join(f"#   A{number}: '{'y ' * 4000}'\n" for number in range(9))
    huge = text.replace("# run_with", f"# variables:\n{many}# run_with")
    for command in ("run", "path"):
        status, shown = converse(scene.home, ["cetool", command, scene.offer("b.sh", huge)], [], prompt=PROMPT)
        assert status == 125 and "more than a question can show" in shown and len(shown) < 2000
    assert wrapped("a", "b" + " " * 200 + "sha256: 0") == [
        "  a:          b" + r"\x20" * 200 + "sha256:",
        " " * 14 + "0",
    ]


# --- what an answer depends on ----------------------------------------------------------------------------------------

PLAIN = "# env: [no-such-package]\n"
PEP723 = """\
# /// script
# dependencies = ["six"]
# [tool.conda]
# dependencies = ["no-such-package"]
# [tool.uv]
# MORE
# ///
"""


@pytest.mark.parametrize(
    "declares",
    [
        "# env: [no-such-package, pip: ['a @ ./pkg']]\n",
        "# channels: [./channel]\n" + PLAIN,
        "# env: ['./channel::no-such-package']\n",
        "# base: ./base\n# overlay: [six]\n",
        "# base: BASE\n# overlay: [./pkg]\n",
        "# baseline: ./list.txt\n" + PLAIN,
        "# run_with: ./tool\n" + PLAIN,
        "# variables: {PYTHONPATH: lib}\n" + PLAIN,
        PEP723.replace("MORE", "find-links = ['./wheels']"),
        PEP723.replace("MORE", "index-url = './index'"),
        "# variables: {LD_PRELOAD: ./x.so}\n" + PLAIN,
    ],
)
def test_an_answer_covers_the_directory_that_the_declaration_depends_on(scene: Scene, declares: str) -> None:
    here, there = scene.sprung.with_name("here"), scene.sprung.with_name("there")
    for directory in (here, there):
        (directory / "pkg").mkdir(parents=True)
        (directory / "pkg/setup.py").write_text("import setuptools\n")
        (directory / "list.txt").write_text("@EXPLICIT\n")
        (directory / "base/conda-meta").mkdir(parents=True)
        (directory / "base/conda-meta/history").write_text("made\n")
    declares = declares.replace("BASE", str(here / "base"))
    head = "" if "///" in declares else "# conda execute\n"
    url = scene.offer("a.py", f"{head}{declares}\n")
    assert scene.home.cetool("run", "--yes", url, cwd=here).returncode != 0  # there is nothing to make
    assert "no terminal to ask on" not in scene.home.cetool("run", url, cwd=here).stderr
    told = scene.refuses("run", url, cwd=there)
    assert (
        "not to its use of these directories" in told
        and str(there) in told
        and str(here)
        not in told.rpartition("not to its use")[2].replace(str(here / "base") if "base" in declares else "-", "")
    )


def test_an_answer_without_directories_is_valid_everywhere(scene: Scene) -> None:
    variables = "{PYTHONUNBUFFERED: '1', A: x/y}"
    text = f"# conda execute\n# env: [no-such-package]\n# variables: {variables}\n# run_with: [env, sh]\n"
    url = scene.offer("a.sh", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    answer = scene.home.path / f".local/share/cetool/trust/{digest}.json"
    answer.parent.mkdir(parents=True, mode=0o700)
    former = {"schema": "cetool.trusted/1", "sha256": digest, "url": "x", "date": 1.0, "how": "asked", "places": []}
    answer.write_text(json.dumps(former))  # as the previous version wrote it
    for directory in (scene.home.path, Path(os.sep)):
        assert "no terminal to ask on" not in scene.home.cetool("run", url, cwd=directory).stderr


def test_a_strangers_script_cannot_use_the_home_directory(scene: Scene) -> None:
    for line in ("# env: ['~/c::x']", "# base: ~/env", "# baseline: ~/list", "# env: [pip: ['a @ ~/pkg']]"):
        done = scene.home.cetool("run", "--yes", scene.offer("a.sh", f"# conda execute\n{line}\n"))
        assert done.returncode == 125 and ":2: " in done.stderr and "'~'" in done.stderr, done.stderr
    # in the user's own script it is
    own = scene.home.write("own.sh", "# conda execute\n# channels: [~/mine]\n# env: [x]\n")
    assert (scene.home.path / "mine").as_uri() in scene.home.cetool("show", "--json", own).stdout


def test_show_prints_the_path_where_a_run_keeps_the_script(settled: Home, tmp_path: Path) -> None:
    text = "# conda execute\n# env: [hello-bin]\n# run_with: /bin/sh\necho $0\n"
    shown = json.loads(settled.cetool("show", "--json", "-", input=text).stdout)["command"]
    assert settled.cetool("run", "-", input=text).stdout.strip() == shown[-1]
    with serving(make_certificate(tmp_path)) as web:
        web.answers["/a b;c.sh"] = web.answers["/a%20b;c.sh"] = sends(text.encode())
        url, env = f"{web.url}/a%20b;c.sh", {"SSL_CERT_FILE": str(tmp_path / "cert.pem")}
        shown = json.loads(settled.cetool("show", "--json", url, env=env).stdout)["command"]
        assert settled.cetool("run", "-y", url, env=env).stdout.strip() == shown[-1]
    assert sys.platform == "win32" or Path(shown[-1]).is_file()
