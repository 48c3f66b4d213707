"""Promises about match specs, PyPI requirements and requires-python: one form each, and nothing that breaks out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.home import Home

from cetool.base.errors import CetoolError, Location, MetadataError
from cetool.declare.channels import canonical_channel
from cetool.declare.match_specs import canonical_spec, requires_python_spec, spec_name
from cetool.declare.pypi import canonical_requirement

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


NUMBERS = r"(0|[1-9][0-9]{0,9})(\.(0|[1-9][0-9]{0,9})){0,6}"
CLAUSE = rf"(([<>]=?|[!=]=) {{0,2}}{NUMBERS}|{NUMBERS}\.\*)"
PLAIN = (
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True),
    st.from_regex(rf"( {{0,2}}=?{NUMBERS}(\.\*)?| {{0,2}}{CLAUSE}( ?, ?{CLAUSE}){{0,3}}|)", fullmatch=True),
)


@settings(deadline=None, max_examples=500)
@given(*PLAIN)
def test_what_is_read_without_py_rattler_is_read_as_it_does(name: str, clauses: str) -> None:
    """py-rattler decides; a spec of a name and plain clauses only spares its import."""
    try:
        canonical = canonical_spec(name + clauses)
    except MetadataError:
        with pytest.raises(MetadataError):
            canonical_spec(f"c::{name}{clauses}")
    else:  # what names a channel py-rattler reads
        assert canonical_spec(f"c::{name}{clauses}") == f"c::{canonical}"


def test_plain_specs_need_no_py_rattler(home: Home) -> None:
    """Its import is a third of what cetool adds to conda or micromamba that makes an environment."""
    code = (
        "import sys; sys.modules['rattler'] = None; from cetool.declare.match_specs import canonical_spec as c\n"
        "print([c(s) for s in ('Python>=3', 'numpy', 'a_b=1.2', 'x 1', 'y 1.*', 'z<2,>=1,!=1.5')])"
    )
    done = home.run(sys.executable, "-c", code)
    told = ["python >=3", "numpy", "a_b 1.2.*", "x ==1", "y 1.*", "z >=1,<2,!=1.5"]
    assert done.stdout.strip() == str(told), done.stderr


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("python>=3", "python >=3"),
        ("Python >=3", "python >=3"),
        ("  python  >=3 ", "python >=3"),
        ("python=3.12", "python 3.12.*"),
        ("numpy", "numpy"),
        ("numpy *", "numpy"),
        ("numpy * py*", "numpy * py*"),
        ("numpy <2,>=1", "numpy >=1,<2"),
        ("numpy >=1 , <2", "numpy >=1,<2"),
        ("numpy >=1,*,>=1", "numpy >=1"),
        ("numpy >=3|<2,>=1", "numpy >=3|<2,>=1"),
        ("numpy=1.2=py_0", "numpy ==1.2 py_0"),
        ("numpy[version='>=1,<2',build='py*']", "numpy >=1,<2 py*"),
        ("numpy[extras=[b,a]]", "numpy[extras=[a, b]]"),
        ("conda-forge::numpy >=1", "conda-forge::numpy >=1"),
        ("https://conda.anaconda.org/conda-forge::numpy", "conda-forge::numpy"),
        ("./a b::numpy >=1", 'numpy >=1[channel="file:///base/a%20b/"]'),
        (
            f"https://h/linux-64/numpy-1.0-0.conda#{MD5}",
            f'numpy[md5="{MD5}", url="https://h/linux-64/numpy-1.0-0.conda"]',
        ),
    ],
)
def test_a_spec_has_one_form_and_keeps_it(text: str, canonical: str) -> None:
    """CEP 29: Appendix A."""
    assert canonical_spec(text, base_dir="/base") == canonical
    assert canonical_spec(canonical) == canonical
    assert spec_name(canonical) in ("python", "numpy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "-c evil",
        "--help",
        " -y",
        "numpy\nfoo",
        "numpy\x00",
        "numpy\u2028foo",
        "numpy # comment",
        "numpy#x",
        "foo bar baz qux",
        'foo[build="a b"]',
        "numpy >>2",
        "numpy>=",
        "*",
        "numpy*",
        "../numpy",
        "./numpy.conda",
        "python ≥3",
        "nümpy",
        "a*::numpy",
        "https://h/linux-64/-1-0.conda",
        "a::b::c",
        "numpy[foo=bar]",
        "numpy[channel=./here]",
        "numpy\\ >=1",
        "numpy==1; python_version<'3'",
        "n" * 201,
        "numpy " + "1|" * 600 + "2",
    ],
)
def test_an_invalid_spec_is_refused_with_its_place(text: str) -> None:
    """CEP 29: Syntax."""
    with pytest.raises(MetadataError) as refused:
        canonical_spec(text, where=Location("s.py", 3))
    assert str(refused.value).startswith("s.py:3: ")
    assert "match spec" in refused.value.message
    assert not any(ord(char) < 32 for char in refused.value.message)


def test_credentials_of_a_refused_spec_are_not_shown() -> None:
    secret = "s3cret" * 40
    for text in (f"https://user:{secret}@host/channel::numpy >>1", f"https://host/t/{secret}/channel::numpy >>1"):
        with pytest.raises(MetadataError) as refused:
            canonical_spec(text)
        assert "s3cret" not in str(refused.value)


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-z./~-]{1,8}(::)?[a-z]? ?[<>=!~,|*0-9.() ]{0,12}(\[[a-z=\"', ]*\])?"))
def test_any_text_is_a_spec_or_an_error(text: str) -> None:
    try:
        canonical = canonical_spec(text, base_dir="/base")
    except CetoolError:
        return
    assert canonical_spec(canonical) == canonical
    assert not canonical.startswith("-") and canonical.isascii() and canonical.isprintable()
    assert spec_name(canonical)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Foo_Bar", "foo-bar"),
        ("foo>=1, <2", "foo<2,>=1"),
        ("foo[b,a] ; os_name=='nt'", 'foo[a,b]; os_name == "nt"'),
        ("foo @ ./here", "foo @ file:///base/here"),
        ("foo @ git+https://host/repo@v1", "foo @ git+https://host/repo@v1"),
    ],
)
def test_a_requirement_has_one_form_and_keeps_it(text: str, canonical: str) -> None:
    """PEP 508: Grammar; Names; Extras."""
    assert canonical_requirement(text, base_dir="/base") == canonical
    assert canonical_requirement(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-r more.txt", "option of pip"),
        ("-e .", "option of pip"),
        ("--index-url=https://h", "option of pip"),
        ("./here", "name before it"),
        ("https://h/x.whl", "name before it"),
        ("foo @ ext::sh -c true", "not a PyPI requirement"),
        ("foo @ ext::sh", "ext"),
        ("foo\n--pre", "line break"),
        ("foo >>1", "'foo >>1'"),
        ("", "empty"),
    ],
)
def test_an_invalid_requirement_is_refused(text: str, says: str) -> None:
    """PEP 508: Grammar."""
    with pytest.raises(MetadataError, match=r"s\.py:3") as refused:
        canonical_requirement(text, where=Location("s.py", 3))
    assert says in refused.value.message


@settings(deadline=None)
@given(st.text(max_size=9) | st.from_regex(r"[a-z-]{1,8}(\[[a-z,]*\])?[<>=!~,*0-9. ]{0,9}( @ [a-z+:/]*)?(;[a-z ='<]*)"))
def test_any_text_is_a_requirement_or_an_error(text: str) -> None:
    try:
        canonical = canonical_requirement(text, base_dir="/base")
    except CetoolError:
        return
    assert canonical_requirement(canonical) == canonical
    assert not canonical.startswith("-") and "\n" not in canonical


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (">=3", "python >=3"),
        (">=3.11,<4", "python >=3.11,<4"),
        ("<4,>=3.11", "python >=3.11,<4"),
        ("~=3.11", "python 3.*,>=3.11"),
        ("~=3.11.2", "python 3.11.*,>=3.11.2"),
        ("==3.11.*", "python 3.11.*"),
        ("==3.12.1", "python ==3.12.1"),
        ("===3.12.1", "python ==3.12.1"),
        ("!=3.12.0,>=3.11", "python >=3.11,!=3.12.0"),
        ("!=3.11.*", "python !=3.11.*"),
        (">=3.13rc1", "python >=3.13rc1"),
        (">=3.13.RC1,<v4", "python >=3.13rc1,<4"),
    ],
)
def test_requires_python_becomes_a_spec(text: str, spec: str) -> None:
    """PEP 440: Normalization; Compatible release."""
    assert requires_python_spec(text) == spec


def test_requires_python_agrees_with_pep440_on_real_versions() -> None:
    """PEP 440: Summary of permitted suffixes and relative ordering; Version matching; Version exclusion."""
    from packaging.specifiers import SpecifierSet
    from rattler import Version, VersionSpec

    versions = [f"{x}.{y}.{z}" for x in (2, 3, 4) for y in (0, 7, 10, 11, 12) for z in (0, 1, 9)]
    texts = ("~=3.11", "~=3.11.1", "==3.11.*", "!=3.11.*", ">=3.10,<3.12", "!=3.10.1,>3.7", "<=3.11", "==3.11", ">3.10")
    for text in texts:
        spec = VersionSpec(requires_python_spec(text).removeprefix("python "))
        matched = [version for version in versions if spec.matches(Version(version))]
        assert matched == [version for version in versions if version in SpecifierSet(text)], text


@pytest.mark.parametrize("text", ["3.11", "foo", ">=3.11 <4", ">=", ">=3\n", "=>3"])
def test_an_invalid_specifier_is_refused(text: str) -> None:
    with pytest.raises(MetadataError, match="PEP 440"):
        requires_python_spec(text)


def test_directories_are_channels_blanks_and_all(tmp_path: Path) -> None:
    assert canonical_channel("./my channel", base_dir=tmp_path) == (tmp_path / "my channel").as_uri()
    assert canonical_channel("/srv/ö", base_dir=tmp_path) == "file:///srv/%C3%B6"
    assert canonical_channel("https://conda.anaconda.org/bioconda/", base_dir=tmp_path) == "bioconda"
    for bad in (
        "my channel",
        "https://host/a b",
        "-x",
        "a,b",
        "../x\n",
        "",
        "a/../b",
        "a/.b",
        "a/-b",
        "c" * 129,
        "a/label/1",
        "a\x1b",
    ):
        with pytest.raises(MetadataError):
            canonical_channel(bad, base_dir=tmp_path)
