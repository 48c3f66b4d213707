"""``cetool export``: the packages of a script or an environment, in formats that cetool and other tools read."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import environments, told, unconfirmed

from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.find import open_lock

SCRIPT = """\
# /// script
# requires-python = ">=3"
# dependencies = ["tabulate==0.9.0"]
# [tool.conda]
# dependencies = ["six", "hello-bin"]
# ///
import six, tabulate
print(tabulate.__version__, six.__version__)
"""
FILES = {
    "explicit": "out.txt",
    "environment-yml": "out.yml",
    "conda-lock": "out.conda-lock.yml",
    "pixi-lock": "out.pixi.lock",
    "pixi-lock-6": "six.pixi.lock",
    "requirements": "requirements.txt",
}


@pytest.fixture
def exported(settled: Home) -> Home:
    """A home with a script whose environment is exported in every format."""
    if (settled.path / "export").exists():
        return settled
    settled.write("export/table.py", SCRIPT)
    for name, file in FILES.items():
        done = settled.cetool("export", "export/table.py", "--format", name, "--output", f"export/{file}")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        left_out = "from PyPI are left out: tabulate" in done.stderr
        assert left_out if name == "explicit" else unconfirmed(done.stderr) == ""
    return settled


def prefix_of(home: Home, script: str) -> Path:
    """Return the environment of a script."""
    return Path(home.cetool("name", script).stdout.strip())


def test_every_format_has_the_same_packages(exported: Home) -> None:
    folder = exported.path / "export"
    prefix = prefix_of(exported, "export/table.py")
    records = {path.stem for path in prefix.glob("conda-meta/*.json")}
    explicit = (folder / "out.txt").read_text()
    urls = re.findall(r"^(file:.*)#sha256:([0-9a-f]{64})$", explicit, re.MULTILINE)
    stems = [re.sub(r"\.(conda|tar\.bz2)$", "", url.rpartition("/")[2]) for url, _ in urls]
    assert "\n@EXPLICIT\n" in explicit and set(stems) == records and len(stems) == len(records)
    names = [stem.rsplit("-", 2)[0] for stem in stems]
    assert names.index("python") < names.index("six")  # topological order (CEP 23)
    conda_lock, pixi = (open_lock(folder / FILES[name]).lock.platforms[0] for name in ("conda-lock", "pixi-lock"))
    assert conda_lock.explicit == pixi.explicit and set(conda_lock.explicit) == {f"{u}#sha256:{d}" for u, d in urls}
    assert conda_lock.explicit_pypi == pixi.explicit_pypi and len(pixi.pypi) == 1
    assert (folder / FILES["pixi-lock-6"]).read_text().startswith("version: 6\n")
    assert not (folder / FILES["pixi-lock"]).read_text().startswith("version: 6\n")
    requirements = (folder / "requirements.txt").read_text()
    assert f"tabulate==0.9.0 \\\n    --hash=sha256:{pixi.pypi[0].sha256}\n" in requirements
    environment = (folder / "out.yml").read_text()
    assert environment.startswith("# platform: ") and "\nname: table\n" in environment
    for stem in stems:
        name, version, build = stem.rsplit("-", 2)
        assert f"\n- {name}={version}={build}\n" in environment
    assert "\n  - tabulate==0.9.0\n" in environment


def test_an_export_makes_the_same_environment(exported: Home) -> None:
    folder = exported.path / "export"
    shown = exported.cetool("run", "table.py", cwd=folder).stdout
    assert shown.startswith("0.9.0 ")
    wanted = exported.cetool("export", "table.py", "--format", "conda-lock", cwd=folder).stdout
    for name in ("conda-lock", "pixi-lock", "pixi-lock-6"):
        done = exported.cetool("run", "--lock-file", FILES[name], "table.py", cwd=folder)
        assert (done.returncode, done.stdout) == (0, shown), done.stderr
    exported.write("export/plain.py", "import tabulate\nprint(tabulate.__version__)\n")
    assert exported.cetool("run", "--env-file", "out.yml", "plain.py", cwd=folder).stdout == "0.9.0\n"
    # next to the script it is the script's lock, and the next export says so
    shutil.copy(folder / "out.conda-lock.yml", folder / "table.py.conda-lock.yml")
    try:
        done = exported.cetool("run", "--locked", "table.py", cwd=folder)
        assert (done.returncode, done.stdout) == (0, shown), done.stderr
        assert exported.cetool("export", "table.py", cwd=folder).stdout == wanted
        assert exported.cetool("export", "table.py", "--format", "explicit", "-q", cwd=folder).stdout == (
            (folder / "out.txt").read_text()
        )
    finally:
        (folder / "table.py.conda-lock.yml").unlink()


@pytest.mark.real_conda
def test_an_export_agrees_with_conda(exported: Home, real_conda: str) -> None:
    prefix = prefix_of(exported, "export/table.py")
    done = exported.run(real_conda, "list", "--explicit", "--sha256", "-p", prefix)
    assert done.returncode == 0, done.stderr
    lines = {line.replace("#sha256:", "#") for line in done.stdout.splitlines() if "://" in line and line[0] != "#"}
    ours = (exported.path / "export/out.txt").read_text().splitlines()
    assert {line.replace("#sha256:", "#") for line in ours if "://" in line} == lines


def test_environments_and_new_scripts_can_be_exported(home: Home) -> None:
    home.write("six.sh", "#!/bin/sh\n# conda execute\n# env: [six]\n# channels: [conda-forge]\n# variables: {A: b}\n")
    done = home.cetool("export", "six.sh", "--format", "environment-yml")
    assert done.returncode == 0 and "\n- six=" in done.stdout and "\nvariables:\n  A: b\n" in done.stdout
    (name,) = environments(home)
    for target in (name, str(home.cache / "envs" / name)):
        again = home.cetool("export", target, "--format", "environment-yml")
        assert again.stdout == done.stdout.replace("\nname: six\n", f"\nname: {name}\n"), again.stderr
    done = home.cetool("export", "six.sh", "--format", "requirements")
    assert done.returncode == 0 and "six has no packages from PyPI" in done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("#")] == []


def test_impossible_exports_are_errors(settled: Home) -> None:
    settled.write("one.sh", "#!/bin/sh\n# conda execute\n# env: [hello-bin]\n")
    there = settled.write("keep.txt", "mine\n")
    for words, status, reason in (
        (["one.sh", "--platform", "osx-64"], 125, "one.sh has no lock, and this machine is"),
        (["one.sh", "--platform", "osx"], 2, "'osx' is not a platform"),
        (
            ["one.sh", "--format", "explicit", "--platform", "osx-64", "--platform", "win-64"],
            2,
            "has one platform",
        ),
        (["one.sh", "-o", "missing/out"], 2, "cannot write missing/out: No such file or directory"),
        (["one.sh", "-o", "."], 2, ". is not a regular file"),
        (["0123456789abcdef0123"], 125, "there is no environment"),
        (["nothing.sh"], 127, "the script does not exist"),
    ):
        done = settled.cetool("export", *words)
        assert done.returncode == status and reason in told(done.stderr)[0], (words, done.stderr)
    assert settled.cetool("export", "one.sh", "--format", "yaml").returncode == 2
    (settled.path / "link.txt").symlink_to("keep.txt")
    there.chmod(0o640)
    assert settled.cetool("export", "one.sh", "--format", "explicit", "-o", "link.txt").returncode == 0
    assert "@EXPLICIT" in there.read_text() and os.stat(there).st_mode & 0o777 == 0o640
    assert (settled.path / "link.txt").is_symlink()


def test_platforms_of_a_lock_can_be_exported(settled: Home) -> None:
    settled.write("many.py", "# conda execute\n# env: [python, six]\nprint(1)\n")
    assert settled.cetool("export", "many.py", "-o", "one.yml").returncode == 0
    lock = open_lock(settled.path / "one.yml").lock
    (here,) = lock.platforms
    other = "osx-arm64" if here.platform != "osx-arm64" else "linux-64"
    conda = [each._replace(url=each.url.replace(f"/{here.platform}/", f"/{other}/")) for each in here.conda]
    both = lock._replace(platforms=(here, here._replace(platform=other, conda=tuple(conda))))
    settled.write("many.py.conda-lock.yml", write_conda_lock(both, sources=("many.py",)))
    for name in ("conda-lock", "pixi-lock"):
        done = settled.cetool("export", "many.py", "--format", name, "-o", f"many.{name}")
        assert done.returncode == 0, done.stderr
        found = open_lock(settled.path / f"many.{name}").lock
        assert {each.platform for each in found.platforms} == {here.platform, other}
    done = settled.cetool("export", "many.py", "--format", "explicit", "--platform", other)
    assert done.returncode == 0 and f"# platform: {other}\n" in done.stdout and f"/{other}/python" in done.stdout
    assert f"/{here.platform}/" not in done.stdout
    assert f"/{here.platform}/python" in settled.cetool("export", "many.py", "--format", "explicit").stdout
    done = settled.cetool("export", "many.py", "--platform", "win-64")
    assert done.returncode == 125 and "there are no packages for win-64" in told(done.stderr)[0]
