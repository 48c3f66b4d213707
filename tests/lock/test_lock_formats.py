"""Formats of locks: cetool reads what it and other tools write, and refuses anything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rattler.lock import LockFile
from ruamel.yaml import YAML
from support.locks import COMMIT, FORGE, LOCK, PYTHON, SIX, WHEEL

from cetool.base.durations import exclude_newer, rfc3339
from cetool.base.errors import CetoolError, MetadataError, UsageError
from cetool.declare.blocks import find_block
from cetool.declare.package import Package
from cetool.declare.requirements import Requirements
from cetool.declare.source import script_from_text
from cetool.edit.document import Document, read_document, require_script
from cetool.lock.conda_lock import read_conda_lock, write_conda_lock
from cetool.lock.embedded import embed, read_embedded
from cetool.lock.explicit import read_explicit, write_explicit
from cetool.lock.find import find_lock, lock_in, lock_paths, open_lock
from cetool.lock.model import Lock, PlatformLock
from cetool.lock.pixi import read_pixi_lock, write_pixi_lock
from cetool.lock.plain import to_yaml
from cetool.lock.records import in_order

CONDA_LOCK = write_conda_lock(LOCK, sources=("a.py",))
PIXI = write_pixi_lock(LOCK)
LINES = [package.line for package in LOCK.platforms[0].conda]


def exact(lock: Lock) -> list[tuple[object, ...]]:
    """Return what every format keeps."""
    return [(each.platform, sorted(each.explicit), sorted(each.explicit_pypi)) for each in lock.platforms]


# --- what is written is read again ----------------------------------------------------------------------------------


def test_a_conda_lock_file_keeps_the_whole_model() -> None:
    """CEP 37: dependencies; hash."""
    again = read_conda_lock(CONDA_LOCK, "x")
    assert exact(again) == exact(LOCK) and [each.digest for each in again.platforms] == [
        each.digest for each in LOCK.platforms
    ]
    assert [each.request for each in again.platforms] == ["aa" * 32, "bb" * 32]
    assert (again.channels, again.created, again.custom) == (LOCK.channels, LOCK.created, LOCK.custom)
    # conda-lockfiles, the plugin with which conda reads the file, requires it
    assert "\n  custom_metadata:\n" in CONDA_LOCK and "\n    created_by: cetool\n" in CONDA_LOCK
    six = next(package for package in again.platforms[0].conda if package.name == "six")
    assert six.depends == ("abi 1.* *_cp", "python >=3,<4")
    assert write_conda_lock(again, sources=("a.py",)) == write_conda_lock(
        read_conda_lock(write_conda_lock(again, sources=("a.py",)), "y"), sources=("a.py",)
    )


def test_a_pixi_lock_keeps_the_whole_model(tmp_path: Path) -> None:
    path = tmp_path / "p.pixi.lock"
    path.write_text(PIXI, encoding="utf-8")
    again = read_pixi_lock(path, PIXI, "x")
    assert exact(again) == exact(LOCK) and again.channels == LOCK.channels
    assert write_pixi_lock(again) == PIXI
    package = next(each for each in again.platforms[0].conda if each.name == "six")
    assert (package.depends, package.constrains, package.size) == (SIX.depends, SIX.constrains, SIX.size)
    environment = LockFile.from_path(path).default_environment()
    assert environment is not None
    wheels = [each for each in environment.pypi_packages()["linux-64"] if each.name == "tabulate"]
    assert wheels[0].hashes is not None and wheels[0].hashes.sha256 == bytes.fromhex("56" * 32)


def test_an_explicit_file_keeps_the_conda_packages_in_their_order() -> None:
    again = read_explicit(write_explicit(LOCK.platforms[0], comments=("made by a test",)), "x")
    assert again.platforms[0].explicit == LOCK.platforms[0].explicit and again.platforms[0].platform == "linux-64"


@pytest.mark.parametrize("name", ["a.py", "a.R", "a.js", "a.lua", "a.lisp", "a.m", "a.f90", "a.sql", "noname"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_an_embedded_lock_changes_no_other_byte(name: str, ending: str, mark: bytes, tmp_path: Path) -> None:
    comment = {"R": "#", "js": "//", "lua": "--", "lisp": ";;", "m": "%", "f90": "!", "sql": "--"}.get(name[2:], "#")
    text = f"{comment} conda execute\n{comment} env: [six]  \n\n  code('é')\n\t"
    for body in (text, text.rstrip(), text + "\n\n"):
        path = tmp_path / name
        path.write_bytes(mark + body.replace("\n", ending).encode())
        document = read_document(path)
        with_lock = embed(document, LOCK)
        assert with_lock.data.startswith(document.data) and with_lock.script is not None
        again = read_embedded(with_lock.script)
        assert again is not None and exact(again) == exact(LOCK)
        assert (again.channels, again.created, again.custom) == (LOCK.channels, LOCK.created, LOCK.custom)
        assert find_block(with_lock.script) == find_block(require_script(document))
        added = with_lock.data[len(document.data) :].decode().replace(ending, "\n").strip().split("\n")
        assert all(line.startswith(f"{comment} ") for line in added if line)
        # replaced where it is: lines after it are unchanged, and so is the end of its last line
        smaller = LOCK._replace(platforms=LOCK.platforms[1:])
        for tail in (b"", f"more(){ending}".encode()):
            path.write_bytes(with_lock.data + tail)
            assert embed(read_document(path), smaller).data == embed(document, smaller).data + tail
            assert embed(embed(read_document(path), smaller), LOCK).data == with_lock.data + tail


def document_of(path: Path, text: str) -> Document:
    path.write_text(text, encoding="utf-8")
    return read_document(path)


def test_an_embedded_lock_is_not_part_of_a_pep_723_block(tmp_path: Path) -> None:
    """According to the regular expression of the standard, which matches as many comment lines as it can.

    PEP 723: Specification.
    """
    standard = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
    block = '# /// script\n# dependencies = ["six"]\n# ///'
    with_lock = require_script(embed(document_of(tmp_path / "a.py", block), LOCK)).text
    found = {match["type"]: match["content"] for match in standard.finditer(with_lock)}
    assert found["script"] == '# dependencies = ["six"]\n' and set(found) == {"script", "cetool-lock"}


def test_a_lock_is_not_embedded_in_data_or_output(tmp_path: Path) -> None:
    perl = "# conda execute\n# env: [perl]\nprint <DATA>;\n__DATA__\none\ntwo\n"
    assert embed(document_of(tmp_path / "a.pl", perl), LOCK).data.endswith(b"# ///\n__DATA__\none\ntwo\n")
    with pytest.raises(MetadataError, match="PHP would print it"):
        embed(document_of(tmp_path / "a.php", "<?php\n// conda execute\n// env: [php]\n?>\n"), LOCK)
    cpp = '/*\n * # nothing\n# /// conda-script\n# channels = ["c"]\n# /// end-conda-script\n*/\nint main() {}\n'
    assert b"\n// /// cetool-lock\n" in embed(document_of(tmp_path / "a.cpp", cpp), LOCK).data
    with pytest.raises(MetadataError, match="notebook"):
        embed(document_of(tmp_path / "a.ipynb", "{}\n"), LOCK)


def test_programs_with_an_embedded_lock_run_as_before(tmp_path: Path) -> None:
    """It consists of comments: for a shell, Python, and a line that is continued at the end of the file."""
    for name, program, body in (
        ("a.sh", "/bin/sh", "# conda execute\n# env: [x]\necho one \\\n two \\\n"),
        ("a.py", sys.executable, "# conda execute\n# env: [x]\nif True:\n    print('one',\n 'two')"),
    ):
        path = tmp_path / name
        with_lock = embed(document_of(path, body), LOCK)
        before = subprocess.run([program, path], capture_output=True, check=True).stdout
        path.write_bytes(with_lock.data)
        assert subprocess.run([program, path], capture_output=True, check=True).stdout == before == b"one two\n"


# --- what others write is read --------------------------------------------------------------------------------------


def test_locks_of_other_tools_are_read(tmp_path: Path) -> None:
    """conda-lock: categories, optional packages, only one of the digests, versions that look like numbers.

    CEP 37: category.
    """
    lines = CONDA_LOCK.replace("optional: false", "optional: false", 1).replace("category: main\n", "", 1)
    lines = lines.replace("version: '3.10'", "version: 3.10").replace("dependencies: {}\n", "dependencies:\n")
    extra = CONDA_LOCK[CONDA_LOCK.index("- name: six") : CONDA_LOCK.index("- name: 'yes'")]
    extra = extra.replace("name: six", "name: dev").replace("six-1.16", "dev-1.16")
    assert extra.count("name: ") == 1
    for changes in (("category: main", "category: dev"), ("optional: false", "optional: true")):
        text = lines + extra.replace(*changes)
        assert exact(read_conda_lock(text, "x")) == exact(LOCK)
    again = read_conda_lock(re.sub(r"  custom_metadata:\n(?:    .*\n)+", "", CONDA_LOCK), "x")
    assert [each.request for each in again.platforms] == [None, None] and again.custom == ()


@pytest.mark.parametrize("indent", ["", "  "])
def test_reading_one_platform_gives_the_same_packages(indent: str) -> None:
    head, mark, rest = CONDA_LOCK.partition("package:\n")
    text = head + mark + "".join(f"{indent}{line}\n" for line in rest.splitlines())
    for platform in ("linux-64", "osx-arm64", "win-64"):
        alone = read_conda_lock(text, "x", platform)
        assert alone.platform(platform) == read_conda_lock(text, "x").platform(platform)
        assert [each.platform for each in alone.platforms] == ["linux-64", "osx-arm64"]
    # errors have the line in the file; packages of other platforms are not read
    spoilt = text.replace("name: tabulate", "name: -x").replace("osx-arm64\n", "osx-arm64\n", 1)
    line = spoilt.split("\n").index(f"{indent}- name: -x") + 1
    with pytest.raises(MetadataError, match=f"x:{line}: "):
        read_conda_lock(spoilt, "x", "linux-64")
    assert read_conda_lock(spoilt, "x", "osx-arm64").platform("osx-arm64")


def test_packages_are_sorted_topologically() -> None:
    package = Package("a", "1", "0", "linux-64", f"{FORGE}/linux-64/a-1-0.conda", "ab" * 32)
    b, c = (package._replace(name=name, url=package.url.replace("a-1", f"{name}-1")) for name in "bc")
    chain = [package._replace(depends=("b >=1",)), b._replace(depends=("c", "python_abi")), c]
    assert [each.name for each in in_order(chain)] == ["c", "b", "a"] == [each.name for each in in_order(chain[::-1])]
    circle = [SIX._replace(depends=("python",)), PYTHON._replace(depends=("six",))]
    assert [each.name for each in in_order(circle)] == ["python", "six"]


@pytest.mark.parametrize("writer", ["cetool", "somebody"])
def test_packages_that_were_moved_in_a_lock_are_sorted_again(writer: str) -> None:
    head, mark, packages = CONDA_LOCK.replace("created_by: cetool", f"created_by: {writer}").partition("\npackage:\n")
    items = re.split(r"(?m)^(?=- )", packages)
    moved = read_conda_lock(head + mark + "".join(items[::-1]), "x").platforms[0]
    names = [package.name for package in moved.conda]
    assert sorted(names) == ["python", "six", "yes"] and names.index("python") < names.index("six")


EXPLICIT = f"""# This file may be used to create an environment using:
# platform: linux-64

  @EXPLICIT
   \t
{PYTHON.url}#sha256:{"12" * 32}
{SIX.url}#{"AB" * 32}
{FORGE}/noarch/none-1-0.conda
{FORGE}/linux-64/old-1-0.tar.bz2#{"cd" * 16}
# the end
"""


def test_every_form_of_explicit_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CEP 23: Specification; Explicit input files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIRROR", "https://mirror.example")
    monkeypatch.chdir(tmp_path)
    text = EXPLICIT + "~/pkgs/home-1-0.conda\n./rel-1-0.conda\nhttps://h/$MIRROR/noarch/m-1-0.conda\n"
    for line in ("$MIRROR/noarch/n-1-0.conda", "${MIRROR}/noarch/n-1-0.conda", "%MIRROR%/noarch/n-1-0.conda"):
        with pytest.raises(MetadataError, match=r"x:14: .* starts with a variable"):
            read_explicit(f"{text}{line}\n", "x")
    lock = read_explicit(text, "x").platforms[0]
    by_name = {package.name: package for package in lock.conda}
    assert list(by_name) == ["python", "six", "none", "old", "home", "rel", "m"] and lock.platform == "linux-64"
    assert by_name["six"].sha256 == "ab" * 32 and by_name["old"].md5 == "cd" * 16
    assert by_name["none"].line == f"{FORGE}/noarch/none-1-0.conda"
    assert by_name["home"].url == (tmp_path / "pkgs/home-1-0.conda").as_uri()
    assert by_name["rel"].url == (tmp_path / "rel-1-0.conda").as_uri()
    assert by_name["m"].url == "https://h/$MIRROR/noarch/m-1-0.conda"
    with pytest.raises(MetadataError, match=r"b.txt:2: .*'~'"):  # a baseline from a URL
        lock_in(b"@EXPLICIT\n~/pkgs/home-1-0.conda\n", Path("b.txt"), "https://host/b.txt")


@pytest.mark.parametrize("version", [5, 6])
def test_older_pixi_locks_are_read(version: int, tmp_path: Path) -> None:
    kind, url = ("kind: conda\n  ", "url: ") if version == 5 else ("", "conda: ")
    more = "  name: six\n  version: 1.16.0\n  build: pyh_0\n  subdir: noarch\n" if version == 5 else ""
    text = f"""version: {version}
environments:
  default:
    channels:
    - url: {FORGE}/
    packages:
      linux-64:
      - conda: {SIX.url}
packages:
- {kind}{url}{SIX.url}
{more}  sha256: {SIX.sha256}
  depends:
  - python >=3
"""
    path = tmp_path / "pixi.lock"
    path.write_text(text, encoding="utf-8")
    lock = open_lock(path).lock
    assert lock.platforms[0].explicit == (SIX.line,) and lock.channels == ("conda-forge",)


# --- which lock it is -----------------------------------------------------------------------------------------------


def test_the_first_lock_is_used_and_the_others_are_reported(tmp_path: Path) -> None:
    script = require_script(document_of(tmp_path / "a.py", "# conda execute\n# env: [six]\n"))
    assert find_lock(script) is None
    conda_lock, pixi = lock_paths(script.path)
    pixi.write_text(PIXI, encoding="utf-8")
    found = find_lock(script)
    assert found is not None and (found.format, found.path, found.notes) == ("pixi", pixi, ())
    conda_lock.write_text(CONDA_LOCK, encoding="utf-8")
    found = find_lock(script)
    assert found is not None and found.format == "conda-lock" and found.where.endswith("a.py.conda-lock.yml")
    assert found.notes == ("a.py.pixi.lock is ignored: the lock is in a.py.conda-lock.yml",)
    inside = require_script(embed(read_document(script.path), LOCK))
    found = find_lock(inside)
    assert (
        found is not None and found.format == "embedded" and "a.py.conda-lock.yml and a.py.pixi.lock" in found.notes[0]
    )
    found = find_lock(inside, beside=False)
    assert found is not None and found.notes == () and find_lock(script, beside=False) is None
    assert [open_lock(path).lock.platforms[1].platform for path in (conda_lock, pixi)] == ["osx-arm64"] * 2
    # the lock next to the target of a link in the same directory is shown by its path
    link = script.path.with_name("longer-than-a.py")
    link.symlink_to(script.path)
    found = find_lock(require_script(read_document(link)))
    assert found is not None and found.where.endswith("/a.py.conda-lock.yml")
    # a broken link is a missing lock, not the absence of a lock
    conda_lock.unlink()
    conda_lock.symlink_to("nowhere")
    with pytest.raises(MetadataError, match="the lock file does not exist"):
        find_lock(script)


def test_a_directory_is_not_written_into_a_conda_lock_file() -> None:
    """CEP 37: hash."""
    directory = LOCK.platforms[0].pypi[0]._replace(url="file:///work/foo", sha256=None)
    with pytest.raises(MetadataError, match="foo in a conda-lock.yml: it has no digest"):
        write_conda_lock(LOCK._replace(platforms=(LOCK.platforms[0]._replace(pypi=(directory,)),)))


def test_a_lock_without_a_digest_is_compared_by_its_packages(tmp_path: Path) -> None:
    """PEP 508: Environment markers."""
    script = require_script(document_of(tmp_path / "a.py", "# conda execute\n# env: [six]\n"))
    lock_paths(script.path)[1].write_text(PIXI, encoding="utf-8")
    found = find_lock(script)
    assert found is not None

    def matches(*packages: str, pypi: tuple[str, ...] = ()) -> bool | None:
        assert found is not None
        return found.matches(Requirements(packages=packages, pypi=pypi), "linux-64")

    assert matches("six >=1.16", "python", "__glibc >=2") is None
    assert matches("six >=1.17") is False and matches("numpy") is False
    assert matches("six 1.16.0 pyh_0") is None and matches("six 1.16.0 other_0") is False
    assert matches("python", pypi=("Tabulate>=0.9", "six", "colorama ; sys_platform == 'win32'")) is None
    assert matches("python", pypi=("tabulate>=1",)) is False and matches("python", pypi=("rich",)) is False
    assert found.matches(Requirements(packages=("six",)), "win-64") is False


# --- what is refused ------------------------------------------------------------------------------------------------

URL = SIX.url
HOSTILE = [
    "ftp://example.org/noarch/six-1.16.0-pyh_0.conda",
    "javascript://x/noarch/six-1.16.0-pyh_0.conda",
    "https:///noarch/six-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/../../six-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/%2e%2e/six-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/..%2fsix-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/x\\six-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/six-1.16.0-pyh_0.exe",
    f"{FORGE}/noarch/six-1.16.0-pyh_0.conda?x=1",
    f"{FORGE}/noarch/-six-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/s%00ix-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/s%0aix-1.16.0-pyh_0.conda",
    f"{FORGE}/noarch/six-1.16.0-pyh_0.conda --prefix=/",
    f"{FORGE}/noarch/six-1.17.0-pyh_0.conda",
    f"{FORGE}/noarch/seven-1.16.0-pyh_0.conda",
    f"{FORGE}/win-64/six-1.16.0-pyh_0.conda",
    "https://[::1/noarch/six-1.16.0-pyh_0.conda",
    "https://x:y/noarch/six-1.16.0-pyh_0.conda",
    "/etc/six-1.16.0-pyh_0.conda",
    "-six",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_lock_with_a_dangerous_url_is_refused(url: str, tmp_path: Path) -> None:
    """CEP 23: Explicit input files."""
    quoted = url.replace("'", "''")
    with pytest.raises(MetadataError) as refused:
        read_conda_lock(CONDA_LOCK.replace(f"url: {URL}", f"url: '{quoted}'"), "x.yml")
    assert refused.value.where is not None and refused.value.where.path == "x.yml" and refused.value.where.line
    text = PIXI.replace(URL, url)
    path = tmp_path / "p.lock"
    path.write_text(text, encoding="utf-8")
    seven = "seven" in url or "1.17" in url  # there only the URL identifies the package
    if seven:
        assert exact(read_pixi_lock(path, text, "p")) != exact(LOCK)
    else:
        with pytest.raises(MetadataError):
            read_pixi_lock(path, text, "p")
    if not seven and not url.startswith("/"):
        with pytest.raises(MetadataError):
            read_explicit(f"# platform: linux-64\n@EXPLICIT\n{url}#{'ab' * 32}\n", "e")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (WHEEL.url, "https://x.org/other-0.9.0-py3-none-any.whl", "does not belong to 'tabulate'"),
        (WHEEL.url, "data:text/plain,x", "only https"),
        (WHEEL.url, "https://x.org/tabulate-0.9.0.exe", "not a wheel"),
        (f"@{COMMIT}", "@main", "needs a commit"),
        ("name: tabulate", "name: '-e .'", "not the name"),
        ("version: '0.9.0'", "version: '0.9.0 --x'", "not a valid version"),
        ("sha256: '" + "56" * 32 + "'", "sha256: '12'", "not a SHA-256 digest"),
        ("sha256: '" + "56" * 32 + "'", "md5: '" + "56" * 16 + "'", "has no SHA-256"),
        ("manager: conda", "manager: npm", "'conda' or 'pip'"),
        ("platform: linux-64", "platform: noarch", "not a platform"),
        ("name: six", "name: python", "in its URL"),
        ("manager: conda", "manager: conda\n  build: other_0", "in its URL"),
        ("version: 1\n", "version: 2\n", "unsupported version .2"),
        ("package:\n", "packages:\n", "key 'package' is missing"),
        ("platform: osx-arm64", "platform: linux-64", "duplicate package"),
        ("  url: https://conda", "  url: &a https://conda", "anchors"),
        ("url: conda-forge", "url: ''", "is empty"),
        ("dependencies:\n    six: ''", "dependencies: [six]", "mapping of keys"),
    ],
)
def test_invalid_locks_are_reported_with_their_line(old: str, new: str, why: str) -> None:
    """CEP 37: Top-level version; platforms; package; manager; build."""
    text = CONDA_LOCK.replace(old, new, 1) if old != "platform: osx-arm64" else CONDA_LOCK.replace(old, new)
    assert text != CONDA_LOCK
    with pytest.raises(MetadataError, match=why) as refused:
        read_conda_lock(text, "x.yml")
    assert refused.value.where is not None and refused.value.where.path == "x.yml"


def test_an_edited_lock_does_not_match_its_request() -> None:
    """CEP 37: content_hash."""
    bumped = CONDA_LOCK.replace("ab" * 32, "ac" * 32, 1)
    assert read_conda_lock(bumped, "x").platforms[0].request == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("sha256:12", "sha256:13"),
        lambda text: text.replace("# platform: osx-arm64", "# platform: win-64"),
        lambda text: text.replace(f"# {SIX.line}\n", "", 1),
        lambda text: text.replace("# ///\n", ""),
        lambda text: text.replace("# version: 1", "# version: 2"),
        lambda text: text + "\n" + text,
        lambda text: text.replace("# digest", "# other"),
    ],
)
def test_an_edited_embedded_lock_is_refused(spoil: Callable[[str], str], tmp_path: Path) -> None:
    whole = require_script(embed(document_of(tmp_path / "a.py", "print()\n"), LOCK)).text
    spoilt = spoil(whole)
    assert spoilt != whole
    with pytest.raises(MetadataError) as refused:
        read_embedded(script_from_text(spoilt, "a.py", "a.py"))
    assert refused.value.where is not None and refused.value.where.line


def mutated(text: str) -> st.SearchStrategy[str]:
    """Return the text with a piece exchanged for a meaningful or random one."""
    pieces = [
        "\n",
        " ",
        ": ",
        "- ",
        "'",
        '"',
        "\0",
        "{",
        "]",
        "&a",
        "*a",
        "!!x",
        "../",
        "#",
        "///",
        "é",
        "@",
        "%2f",
        "~",
    ]
    piece = st.sampled_from(pieces) | st.text(max_size=5)
    places = st.tuples(st.integers(0, len(text)), st.integers(0, 60), piece)
    return places.map(lambda place: text[: place[0]] + place[2] + text[place[0] + place[1] :])


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_lock_is_read_or_refused_with_a_clear_error(data: st.DataObject, tmp_path: Path) -> None:
    block = require_script(embed(document_of(tmp_path / "a.py", "print()\n"), LOCK)).text
    kind = data.draw(st.sampled_from(["conda-lock", "pixi", "explicit", "embedded"]))
    text = data.draw(mutated({"conda-lock": CONDA_LOCK, "pixi": PIXI, "explicit": EXPLICIT, "embedded": block}[kind]))
    path = tmp_path / "x"
    try:
        if kind == "embedded":
            read_embedded(script_from_text(text, "a.py", "a.py"))
        else:
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            open_lock(path)
    except CetoolError as error:
        assert error.where is not None and error.message and "\n" not in error.message


# --- smaller promises -----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12) | st.lists(st.text(max_size=5), max_size=2)))
def test_yaml_is_the_same_in_both_versions(values: dict[str, object]) -> None:
    allowed = {
        key: value
        for key, value in values.items()
        if all(ord(char) < 0xD800 or 0xE000 <= ord(char) < 0xFFFE or ord(char) > 0xFFFF for char in f"{key}{value}")
    }
    words = [
        "yes",
        "No",
        "1_0",
        "12e3",
        "1:30",
        "0o7",
        "010",
        "null",
        "~",
        "=",
        "<<",
        "- a",
        "a: b",
        "a #b",
        "2020-01-01",
    ]
    document = {**allowed, "words": words, "nothing": [], "none": {}, "yes": True}
    text = to_yaml(document)
    for version in ((1, 1), (1, 2)):
        reader = YAML(typ="safe", pure=True)
        reader.version = version
        read = reader.load(text)
        assert {key: value for key, value in read.items() if isinstance(key, str)} == document


def test_exclude_newer_includes_the_whole_day() -> None:
    assert rfc3339(exclude_newer("2026-01-31")) == "2026-01-31T23:59:59Z"
    assert rfc3339(exclude_newer(" 2026-01-31t12:00:00.5+01:30 ")) == "2026-01-31T10:30:00Z"
    assert rfc3339(exclude_newer("2016-12-31 23:59:60Z")) == "2016-12-31T23:59:59Z"
    for wrong in ("", "2026", "2026-02-30", "2026-01-31T12:00:00", "yesterday", "30 dys", "9999-12-31T23:00:00-23:00"):
        with pytest.raises(UsageError, match="is not a date"):
            exclude_newer(wrong)


def test_a_platform_may_have_no_packages(tmp_path: Path) -> None:
    empty = Lock((PlatformLock("linux-64", ()),), ("conda-forge",))
    assert exact(read_conda_lock(write_conda_lock(empty, sources=("a",)), "x")) == exact(empty)
    assert os.fspath(tmp_path)


# --- what older and sloppier writers wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", ["hash: {}", "hash:", ""])
def test_a_conda_lock_entry_without_a_digest_is_read(hashes: str) -> None:
    """A run warns of it: see test_identity. CEP 37: hash."""
    text = (
        "version: 1\nmetadata:\n  channels: [{url: conda-forge}]\n  platforms: [linux-64]\npackage:\n"
        "- name: six\n  version: '1.16.0'\n  manager: conda\n  platform: linux-64\n  dependencies: {}\n"
        f"  url: https://conda.anaconda.org/conda-forge/noarch/six-1.16.0-pyh6c4a22f_0.tar.bz2\n  {hashes}\n"
    )
    (package,) = read_conda_lock(text, "x").platforms[0].conda
    assert package.name == "six" and package.sha256 is None and package.md5 is None


_OLD_URL = "https://conda.anaconda.org/conda-forge/noarch/six-1.16.0-pyh6c4a22f_0.tar.bz2"
_V3 = f"""\
version: 3
metadata:
  content_hash: {{linux-64: {"aa" * 32}}}
  channels: [{{url: https://conda.anaconda.org/conda-forge/, used_env_vars: []}}]
  platforms: [linux-64]
  sources: []
package:
- platform: linux-64
  name: six
  version: 1.16.0
  category: main
  manager: conda
  dependencies: []
  url: {_OLD_URL}
  hash: {{md5: {"ab" * 16}, sha256: {"cd" * 32}}}
  build: pyh6c4a22f_0
  subdir: noarch
  build_number: 0
  noarch: python
"""
_V4 = f"""\
version: {{version}}
environments:
  default:
    channels: [{{{{url: https://conda.anaconda.org/conda-forge/}}}}]
    packages:
      linux-64:
      - conda: {_OLD_URL}
packages:
- kind: conda
  name: six
  version: 1.16.0
  build: pyh6c4a22f_0
  build_number: 0
  subdir: noarch
  noarch: python
  url: {_OLD_URL}
  sha256: {"cd" * 32}
"""


@pytest.mark.parametrize("text", [_V3, _V4.format(version=4), _V4.format(version=5)], ids=["3", "4", "5"])
def test_pixi_locks_of_all_versions_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pixi.lock"
    path.write_text(text, encoding="utf-8")
    (package,) = open_lock(path).lock.platforms[0].conda
    assert (package.name, package.version, package.url, package.sha256) == ("six", "1.16.0", _OLD_URL, "cd" * 32)
