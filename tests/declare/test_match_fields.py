"""Promises about match specs: CEP 26 and CEP 29, one meaning for every engine, compared with conda and py-rattler."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines import install_fakes
from support.archive import Package, write_package, write_repodata
from support.home import Home
from support.interpreter import current_subdir
from support.requests import HOLD, request_for
from support.spec_texts import RECORDS, generated, ours, pyrattler

from cetool.base.errors import EngineError, MetadataError
from cetool.declare.match_fields import is_read_alike
from cetool.declare.match_specs import canonical_spec
from cetool.engines.build import build_environment
from cetool.engines.choice import choose_engine
from cetool.engines.protocol import EngineRequest, SilentProgress
from cetool.engines.rattler.engine import RattlerEngine

#: What conda's MatchSpec imports.
CONDA_NEEDS = (
    *("archspec", "boltons", "conda-package-handling", "distro", "frozendict", "msgpack", "packaging", "platformdirs"),
    *("pluggy", "requests", "ruamel.yaml", "tqdm", "truststore"),
)
#: Why a spec is refused that conda or py-rattler accepts: docs/reference/specification.md lists them.
ON_PURPOSE = (
    r"\(CEP 26\)|a comma is missing|more parts than a name, a version and a build"
    r"|is not a version: write|'~='|two dots in a row"
)
#: Specs that conda reads otherwise than CEP 29, or with no sense; docs/reference/specification.md has them, too.
CONDA_DEVIATES = re.compile(
    r"(?<![=<>!~])= ?[\w.!]+\*? +[\w*]"  # =1.8 py_0: CEP 29 has any 1.8, conda only 1.8
    r'|version="=1\.8".*build=|build=.*version="=1\.8"'
    r"|(==|!=|>=|<|=) ?[\w.!]*\w\*"  # an operator and 1.8*: conda compares with a version 1.8*
    r"|[,|] +=|\|  "  # in ", =1.8" conda takes 1.8 for a build
    r"|== ?[\w.!]+\.\*"  # ==1.8.* among several clauses: conda takes it for ==1.8
)
#: Specs that py-rattler reads otherwise than conda, and fields that it does not compare, or letter by letter.
RATTLER_DEVIATES = re.compile(
    CONDA_DEVIATES.pattern
    + r"|(>|<=|<|>=) ?[\w.!]+\.\*|/linux-64::|subdir=|fn=|channel=|license=|[\d*] += *[\w*]|\.(?![\w*])"
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # CEP 29, "Version expression parsing": the two blocks of examples
        *((text, "pkg 1.8.*") for text in ("pkg=1.8", "pkg =1.8", "pkg 1.8.*", "pkg=1.8.*", "pkg[version='1.8.*']")),
        *((text, "pkg 1.8.* *") for text in ("pkg 1.8.* *", "pkg=1.8.*=*", "pkg =1.8.* *", "pkg ==1.8.* *")),
        *((text, "pkg ==1.8") for text in ("pkg 1.8", "pkg==1.8", "pkg[version=1.8]", 'pkg[version="1.8"]')),
        *((text, "pkg ==1.8 *") for text in ("pkg 1.8 *", "pkg=1.8=*", "pkg==1.8=*", "pkg ==1.8 *")),
        ("pkg =1.8 0", "pkg 1.8.* 0"),
        ("pkg=1.8=0", "pkg ==1.8 0"),
        # CEP 29, "Syntax": the namespace and the name in brackets are read and ignored, brackets override
        ("conda-forge:ns:pkg", "conda-forge::pkg"),
        ("ns:pkg", "pkg"),
        ("pkg[name=other]", "pkg"),
        ("conda-forge::pkg 1.8[channel=bioconda, version='>=2', build='h*']", "bioconda::pkg >=2 h*"),
        ("conda-forge/linux-64::pkg", "conda-forge/linux-64::pkg"),
        ("*/linux-64::foo>=1.0", 'foo >=1.0[subdir="linux-64"]'),
        # as conda reads what people write
        ("numpyro=0.10.", "numpyro 0.10.*"),
        ("numpy >= 1 , < 2", "numpy >=1,<2"),
        ("pkg >1.8.*", "pkg >1.8"),
        ("pkg >=1.0 , < 2.0 =py34_0", "pkg >=1.0,<2.0 py34_0"),
        ("pkg[version=1.8 build=3]", "pkg ==1.8 3"),
        ("blas=*=openblas", "blas * openblas"),
        ("python=3.11.*=*_cpython", "python 3.11.* *_cpython"),
        ("libfoo >=1.2|<1.0", "libfoo >=1.2|<1.0"),
        *((text, "pkg >=1.8,<2") for text in ("pkg(>=1.8,<2)", "pkg (>=1.8, <2)")),
        ("defaults/linux-64::x", "defaults/linux-64::x"),
        ("conda-forge/label/Dev_1::x", "conda-forge/label/Dev_1::x"),
        ("x[build_number=3]", 'x[build_number="==3"]'),
        ("_libgcc_mutex", "_libgcc_mutex"),
        ("__glibc >=2.17", "__glibc >=2.17"),
    ],
)
def test_a_spec_is_read_as_cep_29_has_it(text: str, canonical: str) -> None:
    assert canonical_spec(text) == canonical
    assert canonical_spec(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # CEP 26: package names, versions, builds, channels, labels, subdirs
        *((name, "in a row") for name in ("a--b", "a.-b", "a._b")),
        *((name, "virtual package") for name in ("__a", "__cudart >=1")),
        (".a", "starts with"),
        ("a" * 65, "at most 64"),
        ("pkg 1.8RC1", "write 1.8rc1"),
        ("pkg 1.8-1", "contains '-'"),
        ("pkg 1" + "0" * 64, "at most 64"),
        ("pkg=1.0=a-b", "contains '-'"),
        ("pkg 1.0 " + "b" * 65, "at most 64"),
        ("conda-forge/-x::pkg", "is not a valid channel"),
        ("c" * 129 + "::pkg", "more than 128"),
        ("conda-forge/label/1dev::pkg", "not a valid label"),
        *(
            (f"pkg[subdir={subdir}]", "not a subdir")
            for subdir in ("linux_64", "Linux-64", "linux-*", "a" * 30 + "-64")
        ),
        # no comma
        ("python >=3.11 <3.12", "write >=3.11,<3.12"),
        ("python>=3.11<3.12", "write >=3.11,<3.12"),
        ("python >=3.11 3.12.*", "write >=3.11,3.12.*"),
        ("python[version='>=3.11 <3.12']", "write >=3.11,<3.12"),
        # fields that nothing honours, and what no engine reads alike
        ("pkg[optional]", "'optional'"),
        ("pkg (target=x)", "'target'"),
        ("pkg[features=mkl]", "'features'"),
        ("pkg[namespace=x]", "'namespace'"),
        ("pkg[version>=1]", "version='>=1'"),
        ("pkg 1.*.3", "at the end"),
        ("pkg ^1.*$", "regular expression"),
        ("pkg[license='^M.*$']", "regular expression"),
        ("pkg[md5=12]", "MD5"),
        ("pkg[build=1, build=2]", "twice"),
        ("a*::pkg", "wildcards"),
    ],
)
def test_an_impossible_package_is_refused_with_the_reason(text: str, says: str) -> None:
    """CEP 26: Package names; Version strings; Build strings; Channel names; Subdir names.

    CEP 29: Version matching; Version expression parsing.
    """
    with pytest.raises(MetadataError) as refused:
        canonical_spec(text)
    assert says in refused.value.message


def test_a_missing_comma_is_reported_with_its_line(settled: Home) -> None:
    script = settled.write("comma.py", "# conda execute\n# env:\n#   - numpy\n#   - python >=3.11 <3.12\nprint()\n")
    for command, status in (("check", 1), ("run", 125)):
        done = settled.cetool(command, script)
        assert done.returncode == status and "comma.py:4: " in done.stderr + done.stdout
        assert "comma" in done.stderr + done.stdout


# --- the same packages from every engine ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_subdirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels ``A`` and ``B``: ``bld`` in the platform's subdir, and with a higher build number in noarch."""
    root = tmp_path_factory.mktemp("subdirs")
    here = current_subdir()
    mit, bsd = {"license": "MIT", "build_number": 0}, {"license": "BSD-3-Clause", "build_number": 9}
    packages = {
        "A": [
            Package("bld", "1.0", build="0", subdir=here, noarch=None, extra=mit),
            Package("bld", "1.0", build="9", extra={**bsd, "license_family": "BSD"}),
            Package("same", "1.0", subdir=here, noarch=None),
            Package("same", "1.0"),
            Package("needs", "1.0", depends=("bld",)),
            Package("only", "1.0"),
        ],
        "B": [Package("only", "2.0", subdir=here, noarch=None)],
    }
    for channel, those in packages.items():
        for subdir in (here, "noarch"):
            mine = [package for package in those if package.subdir == subdir]
            records = {f"{package.stem}.conda": write_package(package, root / channel) for package in mine}
            write_repodata(records, subdir, root / channel)
    return root


def _request(root: Path, place: Path, *specs: str) -> EngineRequest:
    channels = tuple((root / name).as_uri() for name in ("A", "B"))
    return request_for(place / "prefix", tuple(map(canonical_spec, specs)), channels, place / "log")


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (("bld",), "noarch/bld-1.0-9"),
        (("bld[subdir={here}]",), "{here}/bld-1.0-0"),
        (("bld[subdir=noarch]",), "noarch/bld-1.0-9"),
        (("{A}/{here}::bld",), "{here}/bld-1.0-0"),
        (("same[subdir=noarch]",), "noarch/same-1.0-0"),
        (("same[subdir={here}]",), "{here}/same-1.0-0"),
        (("needs", "bld[subdir={here}]"), "{here}/bld-1.0-0 noarch/needs-1.0-0"),
        (("bld[fn=bld-1.0-0.conda]",), "{here}/bld-1.0-0"),
        (("bld[license=mit]",), "{here}/bld-1.0-0"),
        (("bld[license='BSD*']",), "noarch/bld-1.0-9"),
        (("bld[license_family=bsd]",), "noarch/bld-1.0-9"),
        (("bld[build_number='<9']",), "{here}/bld-1.0-0"),
        (("{B}/{here}::only",), "{here}/only-2.0-0"),
        (("bld[subdir=win-64]",), "error: in {here} and noarch: bld 1.0"),
        (("bld[subdir={here}, license=BSD*]",), "error: was not found in"),
        (("bld[subdir={here}]", "bld[subdir=noarch]"), "error: was not found in"),
        (("bld[fn=other.conda]",), "error: was not found in"),
        (("bld[extras=[gpu]]",), "error: was not found in"),
        (("bld[when='__unix', subdir=noarch]",), "error: condition"),
    ],
)
def test_a_field_chooses_the_package(two_subdirs: Path, tmp_path: Path, specs: tuple[str, ...], found: str) -> None:
    """CEP 29: String matching."""
    names = {"here": current_subdir(), **{name: (two_subdirs / name).as_uri() for name in ("A", "B")}}
    specs = tuple(re.sub(r"\{(\w+)\}", lambda match: names[match[1]], spec) for spec in specs)
    found = found.format(**names)
    engine = RattlerEngine({"HOME": str(tmp_path), "PATH": os.defpath}, tmp_path / "cache")
    request = _request(two_subdirs, tmp_path, *specs)
    if found.startswith("error: "):
        with pytest.raises(EngineError) as refused:
            engine.solve(request, SilentProgress(), HOLD)
        assert found.removeprefix("error: ") in f"{refused.value} {refused.value.hint}"
    else:
        records = engine.solve(request, SilentProgress(), HOLD)
        assert " ".join(sorted(f"{each.subdir}/{each.file_name.removesuffix('.conda')}" for each in records)) == found


@pytest.mark.parametrize("priority", ["strict", "flexible"])
def test_with_strict_priority_a_channel_hides_the_packages_of_those_behind_it(
    two_subdirs: Path, tmp_path: Path, priority: str
) -> None:
    (tmp_path / ".condarc").write_text(f"channel_priority: {priority}\n")
    engine = RattlerEngine({"HOME": str(tmp_path), "PATH": os.defpath}, tmp_path / "cache")
    request = _request(two_subdirs, tmp_path, f"only[subdir={current_subdir()}]")
    if priority == "strict":
        with pytest.raises(EngineError):
            engine.solve(request, SilentProgress(), HOLD)
    else:
        (record,) = engine.solve(request, SilentProgress(), HOLD)
        assert str(record.version) == "2.0"


@pytest.mark.parametrize("name", ["conda", "micromamba"])
def test_engines_that_are_programs_link_what_the_fields_say(home: Home, two_subdirs: Path, name: str) -> None:
    """They are handed the packages, for they ignore some fields, and what they make of others differs."""
    install_fakes(home.bin, name)
    env = home.environment({"FAKE_ENGINE_LOG": str(home.path / "asked"), "PATH": f"{home.bin}:/usr/bin:/bin"})
    engine = choose_engine(name, env, lock_dir=home.path / "locks", cache_dir=home.path / "cache")[0]
    request = _request(two_subdirs, home.path, f"bld[subdir={current_subdir()}]")
    request = request._replace(environ=env, cache=home.path / "cache")
    build_environment(engine, request, SilentProgress(), HOLD)
    (record,) = (request.prefix / "conda-meta").glob("*.json")
    assert json.loads(record.read_text())["subdir"] == current_subdir()


# --- compared with others --------------------------------------------------------------------------------------------


def _read(texts: list[str]) -> dict[str, str | None]:
    """The canonical specs; None for those that are refused on purpose."""
    found: dict[str, str | None] = {}
    for text in texts:
        try:
            found[text] = canonical_spec(text)
        except MetadataError as error:
            found[text] = None if re.search(ON_PURPOSE, error.message) else f"refused: {error.message}"
    return found


def test_specs_mean_what_they_mean_to_py_rattler() -> None:
    compared = 0
    for text, canonical in _read(generated(3000)).items():
        theirs = pyrattler(text)
        if canonical is None or theirs is None or RATTLER_DEVIATES.search(text):
            continue
        compared += 1
        assert not canonical.startswith("refused"), (text, canonical)
        assert ours(canonical) == theirs, (text, canonical)
        assert canonical_spec(canonical) == canonical
    assert compared > 500


def test_specs_mean_what_they_mean_to_conda() -> None:
    """As written, and as conda is handed them."""
    read = _read(generated(3000))
    written = [canonical for canonical in read.values() if canonical is not None and is_read_alike(canonical)]
    theirs = _asked_conda([*read, *written])
    compared = 0
    for (text, canonical), meant in zip(read.items(), theirs, strict=False):
        if canonical is None or meant is None or CONDA_DEVIATES.search(text):
            continue
        compared += 1
        assert not canonical.startswith("refused"), (text, canonical)
        assert ours(canonical) == meant, (text, canonical)
    assert compared > 1000
    for canonical, meant in zip(written, theirs[len(read) :], strict=True):
        assert meant == ours(canonical), canonical


def _asked_conda(texts: list[str]) -> list[list[int] | None]:
    """The records that conda's own MatchSpec matches; skips the test if conda is not available.

    conda is imported where it can be, or run from the source that CETOOL_TEST_CONDA_SOURCE names, with uv and PyPI.
    """
    script = str(Path(__file__).parents[1] / "support" / "conda_match_specs.py")
    source = os.environ.get("CETOOL_TEST_CONDA_SOURCE")
    environ = {**os.environ, "CONDA_SOLVER": "rattler"}
    command = [sys.executable, script]
    if source:
        environ["PYTHONPATH"] = source
        uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
        if uv is None:
            pytest.skip("there is no uv")
        needs = [word for name in CONDA_NEEDS for word in ("--with", name)]
        command = [uv, "run", "--no-project", "--quiet", "--python", sys.executable, *needs, "python", script]
    elif importlib.util.find_spec("conda") is None:
        pytest.skip("there is no conda to compare with")
    asked = json.dumps({"specs": texts, "records": RECORDS})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    found: list[list[int] | None] = json.loads(done.stdout)
    return found
