"""What is read without ruamel.yaml is what ruamel.yaml reads."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.home import Home

from cetool.base.errors import MetadataError
from cetool.base.limits import NODES
from cetool.base.plain_yaml import read_plainly, settings_of
from cetool.declare.nodes import Node, parse_yaml
from cetool.declare.package import Package, PypiPackage
from cetool.lock.conda_lock import read_conda_lock, write_conda_lock
from cetool.lock.model import Lock, PlatformLock
from cetool.settings.file import plain_value

BLOCK = """\
# what it needs
env:
 - python >=3.11,<4   # no older
 - numpy
 - "conda-forge::scipy"
channels: [conda-forge, 'my channel']
run_with: python -u
variables:
  A: 'it is 1'
  B: 2
"""
FRAGMENTS = """\
env a-b python >=3 numpy 1.2 true null ~ ~/x /opt/x https://h/c 'q' "d" [a,b] [] {} [a] a#b a&b a.# #: - : # #c :: a,b
a:b 0x1 1e3 .5 .inf 2024-01-01 yes *x &a !t | > %a @a x=1 x[y] {a} ? --- ... é \\ a'b '' << 12 007 -1 +1 0o7
FALSE , ] 's p'
"""
WORDS = st.sampled_from(
    [*FRAGMENTS.split(), "\t", "\r", "", " ", "'a b'", "[a, 'b c']", "a b", "a #b", "# c", "k: v"],
)
HEADS = "- |- |-  |a: |b: |c-d:  |e:|a:||true: |- a: |- b:|-  c: |'a.b': |'1' : |- 'd': |a.b: |- - |'<<': |x:y: "
VALUES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
ROWS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "  ", "  ", "    ", " "]),
    st.sampled_from(HEADS.split("|")),
    VALUES,
)


def parsed(text: str) -> Node | str | None:
    """What the real parser makes of it."""
    try:
        ended = text if text.endswith("\n") else text + "\n"
        ended += "...\n"  # the end of a document, which only the parser reads
        assert read_plainly(ended) is None
        return parse_yaml(ended, name="f")
    except Exception as error:
        return repr(error)


def line(mapping: Any, key: str) -> int:
    """The line of a key, counted from 1."""
    return int(mapping.lc.key(key)[0]) + 1


def lines(value: Any) -> dict[str, int]:
    """Those of the keys of a mapping."""
    return {key: line(value, key) for key in value} if isinstance(value, dict) else {}


@settings(deadline=None, max_examples=1000)
@given(st.lists(ROWS | st.just("") | st.just("# words"), min_size=1, max_size=6).map("\n".join) | st.text(max_size=20))
def test_it_is_read_as_ruamel_reads_it_or_not_at_all(text: str) -> None:
    """As a block, with the lines; and as a configuration file."""
    plain = read_plainly(text)
    if plain is None:
        return
    assert repr(parse_yaml(text, name="f")) == repr(parsed(text))
    found = settings_of(text)
    if found is None:
        return
    data: Any = YAML(typ="rt").load(text)
    told = {key: (setting.value, setting.line, dict(setting.lines)) for key, setting in found.items()}
    wanted = {key: (plain_value(value), line(data, key), lines(value)) for key, value in data.items()}
    assert repr(told) == repr(wanted)


DEPENDENCIES = st.lists(
    st.sampled_from(["python >=3.12,<3.13.0a0", "__glibc >=2.17", "7zip", "a.b 1.0 *_cp312", "x", "true", "null 1"])
    | st.builds(
        "{} {}".format, st.sampled_from(["libgcc-ng", "y", "on", "a"]), st.text("019.*<>=!~|, '#&_\t", max_size=8)
    ),
    max_size=3,
).map(tuple)
NAMES = st.sampled_from(["python", "7zip", "_openmp_mutex", "true", "a.b", "y", "libgcc-ng"])
VERSIONS = st.sampled_from(["3.12.1", "1", "1.10", "2024a", "1e3", "0x1", "1!2.0", "v"])
URLS = st.sampled_from(["https://h/c", "file:///x/y", "http://h:80/t~/c%20d", "https://h/a&b/c=d"])


@st.composite
def packages(draw: st.DrawFn) -> tuple[Package, ...]:
    found = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        version, build = draw(VERSIONS), draw(st.sampled_from(["0", "py312_0", "1_cp312", "true"]))
        url = f"{draw(URLS)}/linux-64/{name}-{version}-{build}.conda"
        sha256 = draw(st.none() | st.sampled_from(["ab" * 32, "01" * 32, "1e" * 32]))
        found[name] = Package(name, version, build, "linux-64", url, sha256, "12" * 16, None, draw(DEPENDENCIES))
    return tuple(found.values())


def wheel(name: str, url: str) -> PypiPackage:
    return PypiPackage(name, "1.0", url, "ab" * 32 if url.endswith("whl") else None, ("six >=1", "a; extra == 'b'"))


WHEELS = st.sampled_from(
    [
        (),
        (wheel("six", "https://h/six-1.0-py3-none-any.whl"), wheel("a", f"git+https://h/a.git@{'ab' * 20}")),
        (wheel("a", f"git+https://h/a.git@{'ab' * 20}#subdirectory=b"),),
    ]
)
LOCKS = st.builds(
    lambda conda, pypi, request, custom: write_conda_lock(
        Lock((PlatformLock("linux-64", conda, pypi, request),), ("https://h/c",), "2026-01-02T03:04:05Z", custom)
    ),
    packages(),
    WHEELS,
    st.none() | st.just("ab" * 32),
    st.lists(st.tuples(st.sampled_from(["note", "é", "a b", "true"]), st.text(max_size=5)), max_size=2).map(
        lambda pairs: tuple(dict(pairs).items())
    ),
)
#: Lines of other writers, right and wrong.
FOREIGN = st.sampled_from(
    """  build: null|  build:|  category: dev|  optional: true|  dependencies: {}|  hash:|- name: x|    md5: 1|  - a
  x: >|    x|\ty: z|package:|  url: 'a|# c||---|  &a x: y|  name: x|metadata:|  platforms: [linux-64]|- &a {name: b}
  : b|  version: 1.10|  <<: *a|    '<<': a""".replace("\n", "|").split("|")
)


def read(text: str) -> str:
    """The lock in a text, or the error with file and line."""
    try:
        return repr(read_conda_lock(text, "f"))
    except MetadataError as error:
        return f"{error} {error.hint}"


@settings(deadline=None, max_examples=200)
@given(LOCKS, st.lists(st.tuples(st.floats(0, 1), FOREIGN, st.booleans()), max_size=2))
def test_a_lock_is_read_as_ruamel_reads_it(text: str, changes: list[tuple[float, str, bool]]) -> None:
    """Also if another tool wrote it, or if it is broken: then with the same error."""
    rows = text.splitlines()
    for where, row, replaced in changes:
        at = int(where * (len(rows) - 1))
        rows[at : at + replaced] = [row]
    changed = "\n".join([*rows, ""])
    with_parser = f"{changed}...\n"
    assert read_plainly(with_parser) is None
    if read_plainly(changed) is not None:
        assert read(changed) == read(with_parser)
        assert repr(parse_yaml(changed, name="f")) == repr(parsed(changed))


def test_a_large_lock_takes_no_parser() -> None:
    """Without characters that are rare in locks, whatever its size, up to the limit of values."""
    conda = tuple(
        Package(f"p{n}", "1.10", "py312_0", "noarch", f"https://h/c/noarch/p{n}-1.10-py312_0.conda", "ab" * 32, None)
        for n in range(600)
    )
    conda = tuple(each._replace(depends=("__glibc >=2.17", "python 3.12.* *_cpython", "a.b")) for each in conda)
    text = write_conda_lock(Lock((PlatformLock("linux-64", conda),), ("https://h/c",)))
    assert read_plainly(text) is not None and len(read_conda_lock(text, "f").platforms[0].conda) == 600
    many = "a:\n" + "- b: c\n" * (NODES // 4)
    assert read_plainly(many) is None


@pytest.mark.parametrize("levels", [5, 12, 17, 33, 40])
def test_nesting_has_the_same_limit(levels: int) -> None:
    """Lists and mappings in turn, which nest twice as deep as the blanks tell."""
    text = "".join(f"{'  ' * level}- a:\n" if level else "a:\n" for level in range(levels)) + "  " * levels + "- b: c\n"
    try:
        found: Node | str | None = parse_yaml(text, name="f")
    except MetadataError as error:
        found = repr(error)
    assert repr(found) == repr(parsed(text)) and ("nested too deeply" in repr(found)) == (levels > 16)


def test_what_people_write_is_read(home: Home) -> None:
    """With comments, quotes, lists in both forms and a mapping; nothing of ruamel is loaded."""
    assert read_plainly(BLOCK) is not None
    code = (
        "import sys; from cetool.declare.nodes import parse_yaml\n"
        f"node = parse_yaml({BLOCK!r}, name='f'); assert not any('ruamel' in name for name in sys.modules)\n"
        "print([(key, value.where.line, value.text, [(item.text, item.where.line) for item in value.items]) "
        "for key, value in node.entries.items()])"
    )
    done = home.run(sys.executable, "-c", code)
    assert eval(done.stdout) == [
        ("env", 2, "", [("python >=3.11,<4", 3), ("numpy", 4), ("conda-forge::scipy", 5)]),
        ("channels", 6, "", [("conda-forge", 6), ("my channel", 6)]),
        ("run_with", 7, "python -u", []),
        ("variables", 8, "", []),
    ], done.stderr
    assert settings_of("channels: [a]\nssl_verify: false\nmaximum: 3\nsection:\n  key: ~/x\n") is not None


def test_what_is_wrong_is_left_to_the_parser() -> None:
    """Its complaint has the line."""
    for text in ("a: 1\na: 2", "a: b: c", "- a\nb: c", "a:\n - b\n  c", "a: [b", "a: 'b"):
        assert read_plainly(text) is None
    try:
        parse_yaml("env:\n - a\nenv: b\n", name="f")
    except MetadataError as error:
        assert "duplicate" in error.message and error.where is not None and error.where.line == 3
    else:
        raise AssertionError
