"""Scripts that run in an existing environment with an overlay: what is installed, and what is visible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home
from support.overlays import (
    EXT_SUFFIX,
    add_to_base,
    can_compile,
    compiled_module,
    make_base,
    make_wheel,
    protect,
    snapshot,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX paths")

#: A script that prints what it sees.
SEES = """\
import json, sys
from importlib import import_module, metadata
seen = {}
for name in sys.argv[1:]:
    try:
        seen[name] = [import_module(name).version, metadata.version(name), import_module(name).__file__]
    except ImportError as error:
        seen[name] = str(error)
print(json.dumps(seen))
"""
both = pytest.mark.parametrize("installer", ["uv", "pip"])


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    """Wheels of packages that require each other and nothing else."""
    directory = Path(tempfile.mkdtemp(prefix="cetool-wheels-"))
    for version in ("1.0", "1.5", "2.0"):
        make_wheel(directory, "ovlib", version, scripts={"ovlib-tool": "ovlib:main"}, files=_lib(version))
    make_wheel(directory, "ovbound", "1.0", ["ovlib <2"])
    make_wheel(directory, "ovbound", "1.1", ["ovlib <2"])
    make_wheel(directory, "ovbound", "2.0", ["ovlib >=2"])
    make_wheel(directory, "ovstuck", "1.0", ["ovlib <2"])
    make_wheel(directory, "ovpure", "1.0", ["ovlib >=1.5"])
    make_wheel(directory, "ovpure", "2.0", ["ovlib >=2", "ovother"])
    make_wheel(directory, "ovother", "1.0")
    make_wheel(directory, "space_a", "1.0", files={"space/a.py": "version = '1.0'\n"})
    make_wheel(directory, "space_b", "1.0", files={"space/b.py": "version = '1.0'\n"})
    made = {"oldspace/a.py": "", "oldspace_a-nspkg.pth": _NSPKG}
    make_wheel(directory, "oldspace_a", "1.0", files={**made})
    make_wheel(directory, "oldspace_b", "1.0", files={"oldspace/b.py": "version = 'b'\n"})
    yield directory
    shutil.rmtree(directory)


#: How setuptools used to declare a namespace: the module is created when Python starts.
_NSPKG = (
    "import sys, types, os;p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('oldspace',));"
    "m = sys.modules.setdefault('oldspace', types.ModuleType('oldspace'));"
    "mp = m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)\n"
)


def _lib(version: str) -> dict[str, str | bytes]:
    return {
        "ovlib/__init__.py": f"version = {version!r}\n"
        "def main():\n    from importlib.resources import files\n"
        "    print(version, files('ovlib').joinpath('data.txt').read_text())\n",
        "ovlib/data.txt": f"data of {version}",
        **({"ovlib/old.py": ""} if version == "1.0" else {}),
    }


@pytest.fixture(scope="module")
def base(local_channel: Channel, wheels: Path) -> Iterator[Path]:
    """An unchanging base: ovlib 1.0, ovbound 1.0, which requires an old one, and part of a namespace."""
    root = Path(tempfile.mkdtemp(prefix="cetool-base-"))
    names = ("ovlib-1.0", "ovbound-1.0", "space_a-1.0", "oldspace_a-1.0")
    made = make_base(root / "beamline", local_channel, wheels=[wheels / f"{name}-py3-none-any.whl" for name in names])
    protect(made)
    yield made
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    shutil.rmtree(root)


@pytest.fixture
def lab(home: Home, wheels: Path) -> Home:
    """A home whose only index is the directory of wheels."""
    home.env.update(UV_FIND_LINKS=str(wheels), PIP_FIND_LINKS=str(wheels), CETOOL_OFFLINE="true")
    return home


def script(home: Home, base: Path | str, *entries: str, name: str = "script.py", code: str = SEES) -> Path:
    listed = "".join(f"#   - {entry}\n" for entry in entries)
    return home.write(name, f"# conda execute\n# base: {base}\n# overlay:\n{listed}{code}")


def sees(home: Home, path: Path, *names: str, env: dict[str, str | None] | None = None) -> dict[str, list[str]]:
    done = home.cetool("run", path, *names, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def overlays_in(home: Home) -> list[Path]:
    return sorted(home.cache.glob("overlays/*/[0-9a-f]*"))


# --- contents ---------------------------------------------------------------------------------------------------------


@both
def test_exactly_the_necessary_packages_are_shadowed(lab: Home, base: Path, installer: str) -> None:
    before = snapshot(base)
    path = script(lab, base, "ovpure ==2.0")
    seen = sees(lab, path, "ovpure", "ovlib", "ovbound", "ovother", env={"CETOOL_PIP_INSTALLER": installer})
    (overlay,) = overlays_in(lab)
    versions = {name: found[:2] for name, found in seen.items()}
    assert versions == {
        "ovpure": ["2.0", "2.0"],
        "ovlib": ["2.0", "2.0"],  # which ovpure needs
        "ovbound": ["2.0", "2.0"],  # not requested, but the base's would have broken
        "ovother": ["1.0", "1.0"],
    }
    assert all(Path(found[2]).is_relative_to(overlay) for found in seen.values())
    assert overlay.parent.name == "beamline"
    assert snapshot(base) == before


def test_packages_of_the_base_are_not_installed_again(lab: Home, base: Path) -> None:
    seen = sees(lab, script(lab, base, "ovpure ==1.0", "ovbound"), "ovpure", "ovlib", "ovbound")
    assert [seen[name][0] for name in ("ovpure", "ovlib", "ovbound")] == ["1.0", "1.5", "1.0"]
    assert Path(seen["ovbound"][2]).is_relative_to(base), "ovbound goes with ovlib 1.5"
    assert Path(sees(lab, script(lab, base, "ovlib", name="same.py"), "ovlib")["ovlib"][2]).is_relative_to(base)


def test_a_conflict_names_both_packages(lab: Home, local_channel: Channel, wheels: Path) -> None:
    base = make_base(
        lab.path / "ovstuck",
        local_channel,
        wheels=[wheels / f"{name}-1.0-py3-none-any.whl" for name in ("ovlib", "ovstuck")],
    )
    done = lab.cetool("run", script(lab, base, "ovlib ==2.0"))
    assert done.returncode == 125
    told = " ".join(done.stderr.split())
    assert "the base's ovstuck 1.0 requires ovlib<2" in told and "the overlay requests ovlib==2.0" in told, done.stderr
    assert not overlays_in(lab), "nothing half done is left"


@pytest.mark.skipif(not can_compile(), reason="no C compiler, or no headers of this Python")
def test_packages_compiled_for_a_shadowed_one_are_rebuilt(home: Home, local_channel: Channel, tmp_path: Path) -> None:
    index = tmp_path / "wheels"
    for number in (1, 2):
        code = f"version = '{number}.0'\ninterface = {number}\n"
        library = compiled_module(tmp_path / f"c{number}", "_user", number)
        stub = compiled_module(tmp_path / "stub", "_core", number)
        make_wheel(
            index, "ovcore", f"{number}.0", files={"ovcore/__init__.py": code, f"ovcore/_core{EXT_SUFFIX}": stub}
        )
        files: dict[str, str | bytes] = {
            "ovuser.py": f"import _user\nversion = '{number}.0'\n",
            f"_user{EXT_SUFFIX}": library,
        }
        make_wheel(index, "ovuser", f"{number}.0", ["ovcore"], files=files)
    old = [index / f"{name}-1.0-py3-none-any.whl" for name in ("ovcore", "ovuser")]
    base = make_base(home.path / "base", local_channel, wheels=old)
    env: dict[str, str | None] = {"UV_FIND_LINKS": str(index), "CETOOL_OFFLINE": "true"}
    seen = sees(home, script(home, base, "ovcore ==2.0"), "ovcore", "ovuser", env=env)
    assert [seen["ovcore"][0], seen["ovuser"][0]] == ["2.0", "2.0"]
    shutil.rmtree(home.cache)
    (index / "ovuser-2.0-py3-none-any.whl").unlink()
    done = home.cetool("run", script(home, base, "ovcore ==2.0"), env=env)
    assert done.returncode == 125
    assert (
        "the base's ovuser 1.0 fails with the overlay (ImportError: compiled for interface 1 of ovcore)" in done.stderr
    )


def test_every_kind_of_entry_works(lab: Home, base: Path, wheels: Path) -> None:
    for name in ("project", "checkout"):
        project = f'[project]\nname = "{name}"\nversion = "1"\n'
        lab.write(f"{name}/pyproject.toml", f"{project}[build-system]\n{_BUILD_SYSTEM}")
        lab.write(f"{name}/{name}.py", "version = '1'\n")
        lab.write(f"{name}/backend.py", _BACKEND.format(name=name, place=lab.path / name))
    path = lab.write(
        "nested/script.py",
        f"# conda execute\n# base: {base}\n# overlay:\n#   - ../project\n#   - -e ../checkout\n"
        f"#   - {wheels / 'ovother-1.0-py3-none-any.whl'}\n"
        f"#   - ovlib @ {(wheels / 'ovlib-1.5-py3-none-any.whl').as_uri()}\n{SEES}",
    )
    seen = sees(lab, path, "project", "checkout", "ovother", "ovlib")
    assert [seen[name][0] for name in ("project", "checkout", "ovother", "ovlib")] == ["1", "1", "1.0", "1.5"]
    assert seen["checkout"][2] == str(lab.path / "checkout/checkout.py")
    # editable checkouts are up to date, and a change in an installed directory makes a new overlay
    lab.write("checkout/checkout.py", "version = '2'\n")
    lab.write("project/project.py", "version = '2 of them'\n")
    seen = sees(lab, path, "project", "checkout")
    assert [seen["project"][0], seen["checkout"][0]] == ["2 of them", "2"]


_BUILD_SYSTEM = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
_BACKEND = """
import os, zipfile

def _wheel(directory, files):
    name = "{name}-1-py3-none-any.whl"
    info = "{name}-1.dist-info"
    files[info + "/METADATA"] = "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n"
    files[info + "/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[info + "/RECORD"] = "".join(each + ",,\\n" for each in [*files, info + "/RECORD"])
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return name

def build_wheel(directory, *_, **__):
    return _wheel(directory, {{"{name}.py": open("{place}/{name}.py").read()}})

def build_editable(directory, *_, **__):
    return _wheel(directory, {{"{name}.pth": "{place}\\n"}})
"""


# --- visibility -------------------------------------------------------------------------------------------------------


def test_the_merged_view_is_correct(lab: Home, base: Path) -> None:
    code = """\
import os, subprocess, sys
from importlib import metadata
import space.a, space.b
import oldspace.a, oldspace.b
print(space.a.version, space.b.version, oldspace.b.version)
print([path.name for path in metadata.files("ovlib") if path.name == "data.txt"])
try:
    import ovlib.old
except ImportError:
    print("no ovlib.old")
inner = [sys.executable, "-c", "import ovlib; print(ovlib.version)"]
for words in (["ovlib-tool"], [sys.executable, "-m", "pip", "check"], inner):
    print(subprocess.run(words, capture_output=True, text=True).stdout.strip())
print(sys.prefix, os.environ["CONDA_PREFIX"], os.path.dirname(os.path.dirname(sys.executable)))
"""
    path = script(lab, base, "ovlib ==2.0", "space_b", "oldspace_b", code=code)
    done = lab.cetool("run", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1.0 1.0 b",
        "['data.txt']",
        "no ovlib.old",
        "2.0 data of 2.0",
        "No broken requirements found.",
        "2.0",
        f"{base} {base} {base}",
    ]
    (overlay,) = overlays_in(lab)
    assert (overlay / "bin/ovlib-tool").read_text().startswith(f"#!{base}/bin/python")


def test_another_python_is_not_disturbed(lab: Home, base: Path) -> None:
    lab.write("own/sitecustomize.py", "import sys\nsys.customized = True\n")
    code = f"""\
import subprocess, sys
ask = "import sys; print([p for p in sys.path if 'cetool-overlay' in p or '/overlays/' in p], sys.customized)"
print(getattr(sys, "customized", False), flush=True)
subprocess.run([{sys.executable!r}, "-c", ask])
subprocess.run([{sys.executable!r}, "-c", "import ovlib"])
"""
    done = lab.cetool("run", script(lab, base, "ovlib ==2.0", code=code), env={"PYTHONPATH": str(lab.path / "own")})
    assert done.stdout.splitlines() == ["True", "[] True"], "neither is the sitecustomize of anybody hidden"
    assert "No module named 'ovlib'" in done.stderr


def test_overlays_do_not_leak_into_each_other(lab: Home, base: Path) -> None:
    inner = script(
        lab, base, "ovlib ==1.5", name="inner.py", code="import ovlib, os\nprint(ovlib.version, os.environ['PATH'])\n"
    )
    outer = f"import subprocess, sys\nsubprocess.run([{sys.executable!r}, '-m', 'cetool', 'run', {str(inner)!r}])\n"
    for _ in range(2):  # cold and warm
        done = lab.cetool("run", script(lab, base, "ovlib ==2.0", "ovother", name="outer.py", code=outer))
        version, path = done.stdout.split(" ", 1)
        assert version == "1.5", done.stderr
        assert path.count("overlays") == 1
    plain = lab.path / "plain.py"
    plain.write_text(f"# conda execute\n# base: {base}\n{SEES}")
    assert sees(lab, plain, "ovlib")["ovlib"][0] == "1.0"


def test_pth_files_and_finders_of_the_overlay_come_before_the_base(
    lab: Home, base: Path, wheels: Path, tmp_path: Path
) -> None:
    finder = """\
import importlib.util, sys
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "ovbound":
            return importlib.util.spec_from_file_location(name, {place!r})
sys.meta_path.append(Finder)
"""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/ovlib.py").write_text("version = 'by path'\n")
    (tmp_path / "elsewhere/ovbound.py").write_text("version = 'by finder'\n")
    files: dict[str, str | bytes] = {
        "edit.pth": f"{tmp_path}/elsewhere\nimport _edit_finder\n",
        "_edit_finder.py": finder.format(place=str(tmp_path / "elsewhere/ovbound.py")),
    }
    wheel = make_wheel(tmp_path, "edit", "1.0", files=files)
    code = "import ovlib, ovbound\nprint(ovlib.version, ovbound.version)\n"
    done = lab.cetool("run", script(lab, base, str(wheel), code=code))
    assert done.stdout == "by path by finder\n", done.stderr


def test_the_next_run_is_warm_until_something_changes(lab: Home, local_channel: Channel, wheels: Path) -> None:
    base = make_base(lab.path / "base", local_channel, wheels=[wheels / "ovlib-1.0-py3-none-any.whl"])
    path = script(lab, base, "ovpure ==1.0")
    # launch records need files that have not changed for a moment
    (laid,) = {sees(lab, path, "ovlib")["ovlib"][2] for _ in range(2)}
    assert not Path(laid).is_relative_to(base)
    done = lab.run(sys.executable, "-X", "importtime", "-m", "cetool", path, "ovlib")
    assert "cetool.cli" not in done.stderr and json.loads(done.stdout)["ovlib"][2] == laid, "that was the warm path"
    add_to_base(base, wheels / "ovlib-2.0-py3-none-any.whl", upgrade=True)
    done = lab.cetool("run", path, "ovlib")
    assert "has changed (ovlib 1.0 -> 2.0); re-creating the overlay" in done.stderr
    assert Path(json.loads(done.stdout)["ovlib"][2]).is_relative_to(base), "ovpure works with the base's again"


def test_keep_uses_the_overlay_unchanged(lab: Home, local_channel: Channel, wheels: Path) -> None:
    base = make_base(lab.path / "base", local_channel, wheels=[wheels / "ovlib-1.0-py3-none-any.whl"])
    path = script(lab, base, "ovpure ==1.0")
    laid = sees(lab, path, "ovlib")["ovlib"]
    add_to_base(base, wheels / "ovlib-1.5-py3-none-any.whl", wheels / "ovother-1.0-py3-none-any.whl", upgrade=True)
    done = lab.cetool("run", "--keep", path, "ovlib")
    assert "ovlib 1.0 -> 1.5, ovother 1.0 added" in done.stderr
    assert json.loads(done.stdout)["ovlib"] == laid
    (python,) = base.glob("lib/python3*/site-packages")
    python.parent.rename(base / "lib/python3.1")
    done = lab.cetool("run", "--keep", path, "ovlib")
    assert done.returncode == 125 and "cannot keep the overlay" in done.stderr


def test_conda_packages_can_be_overlaid(lab: Home, base: Path) -> None:
    code = """\
import markdown, subprocess, sys
print(markdown.__file__, flush=True)
subprocess.run(["hello"]), subprocess.run(["markdown_py", "--version"])
"""
    before = snapshot(base)
    path = lab.write("script.py", f"# conda execute\n# base: {base}\n# conda: [hello-bin, markdown, pip]\n{code}")
    done = lab.cetool("run", path)
    (overlay,) = overlays_in(lab)
    lines = done.stdout.splitlines()
    assert Path(lines[0]).is_relative_to(overlay) and str(overlay) in lines[1] and "markdown" in lines[2], done.stderr
    assert not list((overlay / "conda-meta").glob("pip-*")), "the base has it"
    assert (overlay / "bin/markdown_py").read_text().startswith(f"#!{base}/bin/python")
    assert snapshot(base) == before
    done = lab.cetool("run", lab.write("no.py", f"# conda execute\n# base: {base}\n# conda: [missingdep]\n"))
    assert done.returncode == 125 and "does-not-exist" in done.stderr
    assert overlays_in(lab) == [overlay]
