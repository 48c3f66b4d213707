"""Lines below ``pip:``: requirements, options and files as pip has them, and what cetool does not do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.home import Home
from support.pypi import wheel

from cetool.base.errors import MetadataError
from cetool.declare.dialects.environment_yml import read_environment_file
from cetool.declare.requirements import Requirements

SHA = "sha256:" + "a" * 64


def read(directory: Path, *lines: str) -> Requirements:
    """What an environment.yml with these lines below ``pip:`` asks for."""
    path = directory / "environment.yml"
    path.write_text("dependencies:\n  - python\n  - pip:\n" + "".join(f"    - {line!r}\n" for line in lines))
    return read_environment_file(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with two packages in directories, one of which says what it is called."""
    for name in ("named", "nameless"):
        (tmp_path / name).mkdir()
    (tmp_path / "named/pyproject.toml").write_text('[project]\nname = "The_Name"\nversion = "1"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("line", "requirement"),
    [
        ("psutil  # [linux64]", "psutil"),
        ("pydantic[email,dotenv]==1.10.10", "pydantic[dotenv,email]==1.10.10"),
        ("idna ; python_version >= '3'", 'idna; python_version >= "3"'),
        ("git+https://h/r@v2.0b2", "git+https://h/r@v2.0b2"),
        ("git+https://h/r@v1#egg=foo[a]&subdirectory=x", "foo[a] @ git+https://h/r@v1#subdirectory=x"),
        ("git+https://h/r ; os_name == 'nt'", 'git+https://h/r ; os_name == "nt"'),
        ("./named[x]", "the-name[x] @ {here}/named"),
        ("named/", "the-name @ {here}/named"),
        ("./nameless", "{here}/nameless"),
        ("./w/abc-1.0-py3-none-any.whl", "abc @ {here}/w/abc-1.0-py3-none-any.whl"),
        ("abc-1.0.tar.gz", "abc @ {here}/abc-1.0.tar.gz"),
        ("https://h/abc_x-1.0-py3-none-any.whl", "abc-x @ https://h/abc_x-1.0-py3-none-any.whl"),
        ("torch==1 --index-url https://d/", "torch==1"),
    ],
)
def test_a_line_asks_for_a_package(place: Path, line: str, requirement: str) -> None:
    assert read(place, line).pypi == (requirement.format(here=place.as_uri()),)


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (("--extra-index-url https://a/s --pre",), {"extra-index-urls": ["https://a/s"], "prerelease": "allow"}),
        (("-i https://b/s", "-f./w"), {"index-url": "https://b/s", "find-links": ["{here}/w"]}),
        (("--no-binary :all: --only-binary x,Y_z",), {"no-binary": True, "no-build-package": ["x", "y-z"]}),
        (("--only-binary=:all:", "--only-binary=:none:", "--no-binary=a"), {"no-binary-package": ["a"]}),
        (("--trusted-host h", "--no-index"), {"allow-insecure-host": ["h"], "no-index": True}),
        (("--prefer-binary", "--require-hashes"), {"prefer-binary": True, "require-hashes": True}),
        ((f"idna==3 --hash={SHA}",), {"hashes": {"idna==3": [SHA]}}),
    ],
)
def test_options_become_settings(place: Path, lines: tuple[str, ...], settings: dict[str, Any]) -> None:
    found = read(place, *lines, "six").pypi_settings.as_dict()
    found |= {key: json.loads(value) for key, value in found.pop("options", {}).items()}
    assert found == {
        key: [each.format(here=place.as_uri()) for each in value] if isinstance(value, list) else value
        for key, value in settings.items()
    }


def test_files_are_read_from_where_they_are(place: Path) -> None:
    (place / "req").mkdir()
    (place / "req/a.txt").write_text(f"-r b.txt  # nested\nsix \\\n  ==1.0 \\\n --hash={SHA}\n# the end\n")
    (place / "req/b.txt").write_text("\ufeffidna\n\n-c ../c.txt\n../named\n", encoding="utf-8")
    (place / "c.txt").write_text("idna<4\n")
    needs = read(place, "-r req/a.txt")
    assert needs.pypi == ("idna", f"the-name @ {place.as_uri()}/named", "six==1.0")
    assert needs.pypi_settings.named == {"constraint-dependencies": ["idna<4"], "hashes": {"six==1.0": [SHA]}}
    assert [Path(file).name for file in needs.files] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-e .", "editable"),
        ("--editable=git+https://h/r#egg=a", "editable"),
        ("--frobnicate", "unrecognized"),
        ("--install-option=x six", "unrecognized"),
        ("-r https://h/x", "not a file on this machine"),
        ("-r nope.txt", "requirements file does not exist"),
        ("-r environment.yml", "not a PyPI requirement"),
        ("-r loop.txt", "includes itself"),
        ("-r wrong.txt", "unrecognized"),
        ("-r .", "directory"),
        ("--index-url https://${TOKEN}@h/", r"\$\{TOKEN\}"),
        ("six @ https://h/${HOME}/six.whl", r"\$\{HOME\}"),
        ("./nameless[a]", "has extras, but no package name"),
        ("six==1 --hash=sha256:aa", "not a digest"),
        (f"six>=1 --hash={SHA}", "several versions"),
        (f"--hash={SHA}", "needs a requirement before it"),
        ("-r", "expected one argument"),
        ("--no-binary=;x", "not a PyPI package name"),
        ("--find-links -x", "expected one argument"),
        ("foo bar", "not a PyPI requirement"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_line(place: Path, line: str, says: str) -> None:
    (place / "loop.txt").write_text("-r loop.txt\n")
    (place / "wrong.txt").write_text("six\n--frobnicate\n")
    with pytest.raises(MetadataError, match=says) as refused:
        read(place, line)
    assert refused.value.where is not None and refused.value.where.line in (1, 2, 4)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_run_notices_a_changed_requirements_file(home: Home, installer: str) -> None:
    for version in ("1.0", "2.0", "3.0rc1"):
        wheel(home.path / "w", "ours", version)
    (home.path / "req.txt").write_text("--find-links w --no-index\nours\n")
    script = home.write(
        "s.py",
        "# conda execute\n# env:\n#  - python\n#  - pip:\n#    - -r req.txt\n#    - -c c.txt\n#    - --pre\n\n"
        "import ours; print(ours.version)\n",
    )
    (home.path / "c.txt").write_text("")
    found = []
    for constraint in ("", "ours<3a0", "ours<3a0", "ours<2"):
        if constraint:
            (home.path / "c.txt").write_text(f"{constraint}\n")
        time.sleep(0.05)
        for _ in range(2):
            done = home.cetool("run", script, env={"CETOOL_PIP_INSTALLER": installer})
            found.append(done.stdout)
            assert done.returncode == 0, done.stderr
    exported = home.cetool("export", "--format", "requirements", script)
    assert "--hash=sha256:" in exported.stdout, exported.stderr
    assert found == ["3.0rc1\n"] * 2 + ["2.0\n"] * 4 + ["1.0\n"] * 2
