"""What is read without ruamel.yaml is what ruamel.yaml reads."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.home import Home

from cetool.base.errors import MetadataError
from cetool.base.plain_yaml import read_plainly, settings_of
from cetool.declare.nodes import Node, parse_yaml
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
env a-b python >=3 numpy 1.2 true null ~ ~/x /opt/x https://h/c 'q' "d" [a,b] [] [a] - : # #c :: a,b a:b 0x1 1e3 .5
.inf 2024-01-01 yes *x &a !t | > %a @a x=1 x[y] {a} ? --- ... é \\ a'b '' << 12 007 -1 +1 0o7 FALSE , ] 's p'
"""
WORDS = st.sampled_from(
    [*FRAGMENTS.split(), "\t", "\r", "", " ", "'a b'", "[a, 'b c']", "a b", "a #b", "# c", "k: v"],
)
VALUES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
ROWS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "  ", "  ", "    ", " "]),
    st.sampled_from(["- ", "- ", "-  ", "a: ", "b: ", "c-d:  ", "e:", "a:", "", "true: "]),
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
