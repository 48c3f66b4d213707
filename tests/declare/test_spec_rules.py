"""Rules of CEP 26 and CEP 29 that no other test shows: names of packages, files and channels, and match specs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rattler import Version, VersionSpec
from support.archive import Package, write_package, write_repodata
from support.requests import HOLD, request_for

from cetool.base.errors import EngineError, MetadataError
from cetool.declare.channels import canonical_channel
from cetool.declare.match_fields import check_name, read_fields
from cetool.declare.match_specs import canonical_spec
from cetool.engines.protocol import SilentProgress
from cetool.engines.rattler.engine import RattlerEngine
from cetool.lock.explicit import read_explicit

# --- CEP 26 -----------------------------------------------------------------------------------------------------------

_DISTRIBUTABLE = re.compile(r"^(([a-z0-9])|([a-z0-9_](?!_)))[._-]?([a-z0-9]+(\.|-|_|$))*$")


@settings(deadline=None, max_examples=400)
@given(st.text("ab09._-", min_size=1, max_size=10) | st.text(min_size=1, max_size=4))
def test_names_of_packages_are_those_of_the_standards_expression(name: str) -> None:
    """CEP 26: Package names. The expression accepts ``_-a``, which the rule about separators forbids."""
    try:
        check_name(name)
    except ValueError:
        taken = False
    else:
        taken = True
    assert taken == (_DISTRIBUTABLE.fullmatch(name) is not None and not re.search(r"[._-]{2}", name))


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [("__cuda_arch >=8.6", "__cuda_arch >=8.6"), ("__archspec 1 m1", "__archspec ==1 m1"), ("__GLIBC", "__glibc")],
)
def test_virtual_packages_that_a_machine_may_have_can_be_asked_for(spec: str, canonical: str) -> None:
    """CEP 26: Package names."""
    assert canonical_spec(spec) == canonical


@pytest.mark.parametrize(
    ("file", "fits"),
    [
        ("numpy-1.0-py_0.conda", True),
        ("numpy-1!1.0+a_b-py_0.tar.bz2", True),
        ("numpy-1.0RC1-A.conda", True),  # capitals of a version: channels have such files
        ("numpy-1@0-py_0.conda", False),
        (f"numpy-{'1' * 65}-py_0.conda", False),
        ("numpy-1.0-py~0.conda", False),
        (f"numpy-1.0-{'b' * 65}.conda", False),
        ("num--py-1.0-0.conda", False),
        (f"{'n' * 65}-1.0-0.conda", False),
        ("numpy-1.0.conda", False),
        ("numpy-1.0-py_0.zip", False),
        ("numpy-1.0-py_0.CONDA", False),
    ],
)
def test_names_of_package_files_in_specs_and_locks(file: str, fits: bool) -> None:
    """CEP 26: Filenames; Artifact extensions; Version strings; Build strings."""
    url = f"https://h/c/noarch/{file}"
    for read in (canonical_spec, lambda line: read_explicit(f"# platform: linux-64\n@EXPLICIT\n{line}\n", "x")):
        if fits:
            assert read(url)
        else:
            with pytest.raises(MetadataError):
                read(url)


def test_a_distribution_string_is_not_a_match_spec() -> None:
    """CEP 26: Distribution strings: it is read as the name that it also is, or refused."""
    assert read_fields("numpy-1.0-py_0").name == "numpy-1.0-py_0"
    for text in ("linux-64/numpy-1.0-py_0", "linux-64/__glibc-2.28-0", "numpy-1!1.0-py_0"):
        with pytest.raises(MetadataError):
            canonical_spec(text)


@pytest.mark.parametrize("label", ["1dev", "-dev", "a b", "d" * 129, "dev$"])
def test_an_invalid_label_is_refused(label: str) -> None:
    """CEP 26: Label names."""
    with pytest.raises(MetadataError):
        canonical_channel(f"conda-forge/label/{label}", base_dir="/")
    assert canonical_channel("conda-forge/label/Dev_1.x/y-z", base_dir="/") == "conda-forge/label/Dev_1.x/y-z"


def test_channels_that_servers_have_pass() -> None:
    """CEP 26: Channel base URLs; Channel names: capitals pass, and any path of a URL."""
    for channel in ("Esri", "https://host/Some.Path/-x", "https://host/t/tk-1/channel", "file:///srv/.hidden"):
        assert canonical_channel(channel, base_dir="/") == channel
    for channel in ("c" * 129, ".hidden", "-x", "a/-b", "a//b", "~me/c", "a b", "/", "file:///", "s3://"):
        with pytest.raises(MetadataError):
            canonical_channel(channel, base_dir="/")


def test_a_channel_needs_noarch(tmp_path: Path) -> None:
    """CEP 26: Identifying channels."""
    package = Package("same", "1.0", subdir="linux-64", noarch=None)
    channel = tmp_path / "channel"
    write_repodata({f"{package.stem}.conda": write_package(package, channel)}, "linux-64", channel)
    engine = RattlerEngine({"HOME": str(tmp_path), "PATH": os.defpath}, tmp_path / "cache")
    request = request_for(tmp_path / "x", ("same",), (channel.as_uri(),), tmp_path / "log")
    with pytest.raises(EngineError, match="the channel .* was not found"):
        engine.solve(request, SilentProgress(), HOLD)


# --- CEP 29 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  pkg   1.8   py_0  ", "pkg ==1.8 py_0"),
        ("conda-forge/nosubdir::pkg", "conda-forge/nosubdir::pkg"),
        ("pkg[ version = '1.8' ,  build=\"3\"]", "pkg ==1.8 3"),
        ("pkg[build_number=3]", 'pkg[build_number="==3"]'),
        # deviations: what conda reads, and what the rules would have refused
        ("pkg 1.8=py_0", "pkg ==1.8 py_0"),
        ("pkg[version=>=1.8]", "pkg >=1.8"),
        ("pkg[version=1.8 build=3]", "pkg ==1.8 3"),
    ],
)
def test_parts_of_a_match_spec(text: str, canonical: str) -> None:
    """CEP 29: Syntax."""
    assert canonical_spec(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("pkg[version=1][build=2]", "[build=2]pkg", "pkg[build]", "c::d::pkg", "conda-forge/linux-64:pkg"),
        # deviations
        *("*", "* 1.8", "^py.*$", "pkg[build_number='1*']", "pkg[timestamp=1]", "pkg[build='\\x61']"),
    ],
)
def test_a_malformed_match_spec_is_refused(text: str) -> None:
    """CEP 29: Syntax."""
    with pytest.raises(MetadataError):
        canonical_spec(text)


def test_texts_are_compared_as_expressions_where_engines_do() -> None:
    """CEP 29: String matching: a build may be an expression, digests are the same in capitals, others are refused."""
    assert canonical_spec("pkg[build='^py3.*_0$']") == 'pkg[build="^py3.*_0$"]'
    assert canonical_spec("pkg[build='PY*']") == 'pkg[build="PY*"]'
    assert canonical_spec(f"pkg[md5={'AB' * 16}]") == canonical_spec(f"pkg[md5={'ab' * 16}]")
    for refused in ("fn='^a$'", "license='^M$'", "subdir='linux-*'", "channel='conda-*'", "md5='ab*'"):
        with pytest.raises(MetadataError):
            canonical_spec(f"pkg[{refused}]")


def test_a_channels_name_is_its_url() -> None:
    """CEP 29: Channel matching."""
    url = "https://conda.anaconda.org/conda-forge"
    assert (
        canonical_spec(f"{url}::pkg") == canonical_spec(f"pkg[channel='{url}/']") == canonical_spec("conda-forge::pkg")
    )


_VERSIONS = ("0.5.2", "0.5.3", "0.5.9", "0.6", "1.0", "1.0.0", "1.7", "1.8", "1.8.1", "1.9", "2.0a1", "2.0", "3.0")


@pytest.mark.parametrize(
    ("clauses", "matched"),
    [
        (">=1.8,<2|>=3", "1.8 1.8.1 1.9 2.0a1 3.0"),
        (">=3|<2,>=1.8", "1.8 1.8.1 1.9 2.0a1 3.0"),
        ("(>=3|<2),>=1.9", "1.9 2.0a1 3.0"),
        (" >= 1.8 , != 1.9 , < 2.0a1 ", "1.8 1.8.1"),
        ("==1", "1.0 1.0.0"),
        ("=1.8", "1.8 1.8.1"),
        ("1.8*", "1.8 1.8.1"),
        ("!=1.8.*,>1,<2.0a1", "1.7 1.9"),
        ("!=1.8,>1,<2.0a1", "1.7 1.8.1 1.9"),  # a deviation, as every engine has it
        ("~=0.5.3", "0.5.3 0.5.9"),
        ("<=0.5.3", "0.5.2 0.5.3"),
        ("*", " ".join(_VERSIONS)),
    ],
)
def test_which_versions_a_specifier_matches(clauses: str, matched: str) -> None:
    """CEP 29: Version matching."""
    canonical = canonical_spec(f"pkg {clauses}").removeprefix("pkg").strip() or "*"
    specifier = VersionSpec(canonical)
    assert " ".join(each for each in _VERSIONS if specifier.matches(Version(each))) == matched


@pytest.mark.parametrize("clauses", ["1.*.8", "^1.*$", "*.8", ">=1 <2", "~=1", ">", "1.8RC1"])
def test_specifiers_that_engines_do_not_read_alike_are_refused(clauses: str) -> None:
    """CEP 29: Version matching."""
    with pytest.raises(MetadataError):
        canonical_spec(f"pkg {clauses}")
