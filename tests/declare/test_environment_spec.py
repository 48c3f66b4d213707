"""Promises about what an environment is called, and about the files that ask for one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cetool.base.codec import sha256_of
from cetool.base.errors import MetadataError
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.environment import EnvironmentSpec, Exact, Solve
from cetool.declare.match_specs import canonical_spec
from cetool.declare.package import Package
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import Requirements

SEED = EnvironmentSpec(Solve(("numpy", "python >=3")))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_name_is_the_originals_for_plain_specs() -> None:
    assert SEED.name == "ea977067a8fbeb21a594"
    assert EnvironmentSpec.of(Requirements(packages=("python >=3", "numpy", "numpy"))) == SEED


@pytest.mark.parametrize(
    "other",
    [
        Requirements(packages=("python >=3",)),
        Requirements(packages=("python >=3", "numpy"), channels=("bioconda", "conda-forge")),
        Requirements(packages=("python >=3", "numpy"), channels=("bioconda",)),
        Requirements(packages=("python >=3", "numpy"), pypi=("six",)),
        Requirements(packages=("python >=3", "numpy"), variables=(("A", "1"),)),
    ],
)
def test_whatever_else_is_asked_for_changes_the_name(other: Requirements) -> None:
    assert EnvironmentSpec.of(other).name != SEED.name


def test_virtual_packages_change_the_name_and_the_order_of_channels_counts() -> None:
    plain = Requirements(packages=("python >=3", "numpy"))
    assert EnvironmentSpec.of(plain, virtual_packages=(("__cuda", "12"),)).name != SEED.name
    one, two = (EnvironmentSpec.of(plain, default_channels=order) for order in (("a", "b"), ("b", "a")))
    assert one.name != two.name


def test_python_is_added_for_pypi_packages_only_where_missing() -> None:
    assert EnvironmentSpec.of(Requirements(pypi=("six",))).packages == ("python",)
    assert EnvironmentSpec.of(Requirements(("conda-forge::python 3.12.*",), pypi=("six",))).packages == (
        "conda-forge::python 3.12.*",
    )
    assert "python" in EnvironmentSpec.of(Requirements(("python-dateutil",), pypi=("six",))).packages


def test_credentials_take_no_part_and_are_not_stored() -> None:
    def spec(login: str) -> EnvironmentSpec:
        return EnvironmentSpec(
            Solve(
                (f'numpy >=1[channel="https://{login}host/t/{login or "x"}/ch/"]',),
                (f"six @ https://{login}host/six.whl",),
            ),
            channels=(f"https://{login}host/channel",),
            pypi_settings=PypiSettings(index_url=f"https://{login}host/simple"),
        )

    assert spec("user:s3cret@").name == spec("").name
    assert "s3cret" not in json.dumps(spec("user:s3cret@").as_dict())


def test_a_stored_spec_comes_back() -> None:
    spec = EnvironmentSpec(
        Solve(("numpy", "python >=3"), ("six",)),
        channels=("a", "b"),
        pypi_settings=PypiSettings(exclude_newer="2025-01-01", extra_index_urls=("https://h/simple",)),
        variables=(("A", "1"),),
        virtual_packages=(("__cuda", "12"),),
    )
    assert EnvironmentSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


def test_an_environment_file_is_read(tmp_path: Path) -> None:
    text = """
name: anything
channels: [conda-forge, nodefaults, ./local channel]
dependencies:
  - Python>=3
  - numpy
  - pip:
    - Six >=1
variables: {PORT: 8080, MODE: "on"}
prefix: /opt/x
"""
    found = read_environment_file(write(tmp_path / "environment.yml", text))
    assert found.packages == ("python >=3", "numpy")
    assert found.channels == ("conda-forge", (tmp_path / "local channel").as_uri())
    assert found.pypi == ("six>=1",)
    assert found.variables == (("PORT", "8080"), ("MODE", "on"))
    assert [str(each).partition(" ")[0] for each in found.warnings] == [f"{tmp_path / 'environment.yml'}:10:"]


def test_a_list_of_specs_is_read(tmp_path: Path) -> None:
    found = read_environment_file(write(tmp_path / "specs.txt", "# what it needs\n\npython>=3  # any\nnumpy\n"))
    assert EnvironmentSpec.of(found) == SEED


def test_anchors_aliases_and_merge_keys_are_read_as_conda_reads_them(tmp_path: Path) -> None:
    text = (
        "x-common: &common {A: one, B: two}\nx-more: &more [numpy]\n"
        "dependencies: &all\n  - &py python >=3\n  - *py\n  - pip: [six]\nvariables:\n  <<: *common\n  B: own\n"
    )
    found = read_environment_file(write(tmp_path / "environment.yml", text))
    assert (set(found.packages), found.pypi) == ({"python >=3"}, ("six",))
    assert dict(found.variables) == {"A": "one", "B": "own"}


#: Nine values in each of five lists of the one before: 59,049 in all.
LAUGHS = (
    "x-0: &x0 ["
    + ", ".join("a" * 9)
    + "]\n"
    + "".join(f"x-{n}: &x{n} [" + ", ".join([f"*x{n - 1}"] * 9) + "]\n" for n in range(1, 5))
    + "dependencies: [*x4]\n"
)


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("e.yml", "dependencies:\n  - a\n  - b >>1\n", 3, "b >>1"),
        ("e.yml", "dependencies:\n  - pip:\n    - -r more.txt\n", 3, "requirements file does not exist"),
        ("e.yml", "- a\n", 1, "must be a mapping"),
        ("e.yaml", "dependencies: [*a]\n", 1, "*a has no anchor above it"),
        ("e.yaml", "dependencies: &a\n  - *a\n", 2, "*a refers to a value that contains it"),
        ("e.yaml", LAUGHS, 5, "more than 10000 values"),
        ("e.txt", "numpy\n@EXPLICIT\nhttps://h/x.conda\n", 2, "@EXPLICIT"),
        ("e.txt", "numpy\n-r more.txt\n", 2, "a requirements file of pip"),
        ("e.txt", "# nothing\n", None, "no packages"),
    ],
)
def test_an_error_in_a_file_has_its_line(tmp_path: Path, name: str, text: str, line: int | None, says: str) -> None:
    with pytest.raises(MetadataError) as refused:
        read_environment_file(write(tmp_path / name, text))
    assert refused.value.where is not None and refused.value.where.line == line
    assert says in refused.value.message


def test_a_missing_environment_file_is_not_a_missing_script(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yml", tmp_path):
        with pytest.raises(MetadataError, match="environment file"):
            read_environment_file(path)
    # a URL, of which a path keeps one slash, and no word of its password
    for url in ("https://user:secret@host/environment.yml", Path("https://user:secret@host/environment.yml")):
        with pytest.raises(MetadataError, match="^an environment file cannot be a URL$") as caught:
            read_environment_file(url)
        assert caught.value.where is None


# --- the encoding (docs/reference/specification.md) -------------------------------------------------------------------

#: The requests of the examples in docs/reference/specification.md, in their order.
DOCUMENTED = (
    SEED,
    EnvironmentSpec(
        Solve(('bld[subdir="linux-64"]', "python"), ("six",)),
        ("bioconda", "conda-forge"),
        variables=(("NAME", "é\U0001fae8"),),
    ),
    EnvironmentSpec(
        Exact(
            (
                Package.from_line(
                    "https://conda.anaconda.org/conda-forge/noarch/six-1.17.0-pyhe01879c_1.conda"
                    "#sha256:458227f759d5e3fcec5d9b7acce54e10c9e1f4f4b7ec978f3bfd54ce4ee9853d"
                ),
            ),
            asked=Solve(("six",)),
        ),
        variables=(("MODE", "fast"),),
    ),
)
#: Asks one of the installed Pythons, without cetool's dependencies.
_ON_A_PYTHON = """
import sys; sys.path.insert(0, sys.argv[1])
from cetool.declare.package import Package
from cetool.declare.environment import EnvironmentSpec, Exact, PypiSettings, Solve
from cetool.declare.requirements import Requirements
new = "".join(map(chr, (0x378, 0x1FAE8, 0x2FFC, 0x1C89A, 0xE9, 0x7F, 0xAD, 0x2028, 0x10FFFF)))
variables = (("A", new), ("B", "'" + '"' + "\\\\"))
for spec in (
    EnvironmentSpec(Solve(("numpy", "python >=3"))),
    EnvironmentSpec(Solve(("numpy",), ("six",)), pypi_settings=PypiSettings(index_url=f"https://h/{new}")),
    EnvironmentSpec(Solve(("numpy",)), variables=variables),
    EnvironmentSpec(Exact((Package.from_line("https://h/noarch/a-1-0.conda"),)), variables=variables),
    Requirements(("numpy",), baselines=(f"/srv/{new}",), without=("x",)),
):
    print(spec.digest)
"""
_DIGESTS = """\
ea977067a8fbeb21a594e69c6853a98efdf6dc8469823c3a93332bab49b0c251
9fd4658074992c01f7b1ec567c04ffa43946c9db3f51284b0c9c594a25404f98
c71f9d3568a520226da5e2538c936154c4d9b6ee2864631abf1e42a8124cfb14
fcb85c0c9cfd06f1993b2b84426aaf004e4f73fb6e51ba695851740595374d21
257d0c95db301e8f74709fdc5976baa12ac5bda51797fbd25a085dfeafa6e1a2
"""


def test_the_documented_encodings_are_those_that_are_hashed() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "specification.md").read_text(encoding="utf-8")
    examples = re.findall(r"```text\n(.*?)\n```\n\nSHA-256: `([0-9a-f]{64})`", text, re.DOTALL)
    assert [(spec.encoding, spec.digest) for spec in DOCUMENTED] == examples
    assert all(sha256_of(encoding.encode()) == digest for encoding, digest in examples)


def _python(version: str) -> str | None:
    """A Python of that version on this machine."""
    patterns = (f".pyenv/versions/{version}.*/bin/python", f".local/share/uv/python/cpython-{version}.*/bin/python")
    known = [str(found) for pattern in patterns for found in sorted(Path.home().glob(pattern))]
    for path in (*known, shutil.which(f"python{version}")):
        if path is not None and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_a_digest_is_the_same_on_every_python(version: str) -> None:
    """Among the characters are some that one Unicode has and another has not, which ``repr`` tells apart."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable if version == here else _python(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    root = str(Path(__file__).parents[2])
    done = subprocess.run([python, "-I", "-c", _ON_A_PYTHON, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == _DIGESTS


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        # as commit cc5c68b named them
        (EnvironmentSpec(Solve(("numpy",)), ("bioconda",)), "08a9d0d99e47e0464723"),
        (EnvironmentSpec(Solve(("numpy",)), variables=(("A", "é"),)), "74f48de3c0aa4ada2ed6"),
        (EnvironmentSpec(Solve(('numpy[build_number="==3"]',), ("six",))), "c0fa7f119b0c3f40a2e9"),
        (
            EnvironmentSpec(Exact((Package.from_line("https://h/noarch/a-1-0.conda"),), asked=Solve(("numpy",)))),
            "cc7256dce420db76b6c5",
        ),
    ],
)
def test_names_stay_what_they_were(spec: EnvironmentSpec, digest: str) -> None:
    assert spec.name == digest


@pytest.mark.parametrize("field", ["subdir=noarch", "fn=x-1-0.conda", "extras=[a]", "license=MIT"])
def test_a_spec_that_means_something_else_now_has_another_name(field: str) -> None:
    """Its environment, made when the field was ignored, is not taken for the one that is asked for."""
    spec = EnvironmentSpec(Solve((canonical_spec(f"x[{field}]"),)))
    assert spec.encoding.endswith('{"schema":2}')
    old = sha256_of("\n".join(spec.packages).encode())
    assert spec.digest != old


def test_the_order_of_specs_does_not_depend_on_their_credentials() -> None:
    def spec(login: str) -> EnvironmentSpec:
        packages = (f'x[channel="https://{login}b.org/c/"]', 'x[channel="https://a.org/c/"]')
        return EnvironmentSpec.of(Requirements(packages))

    assert spec("").name == spec("me:pw@").name == spec("A:pw@").name
