"""Which engine is chosen and why, which programs are engines, and when an environment is complete."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rattler
from support.home import Home

from cetool.base.errors import EngineError, UsageError
from cetool.engines.choice import choose_engine
from cetool.engines.discovery import NAMES, find_engines
from cetool.engines.program import CONDA
from cetool.engines.protocol import Engine, Found
from cetool.engines.registration import forget_registration
from cetool.packages.integrity import check_complete
from engines import FAKE, install_fakes

#: Where a home's own programs come first.
PATH = "{0.bin}:/usr/bin:/bin"


@pytest.fixture
def env(home: Home, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with only the built-in engine, independent of this machine."""
    monkeypatch.setattr("cetool.engines.discovery.ELSEWHERE", ())
    return home.environment({"PATH": f"{home.bin}:/usr/bin:/bin"})


def choose(wanted: str | None, env: dict[str, str]) -> tuple[Engine, str]:
    """Choose an engine on that machine."""
    home = Path(env["HOME"])
    return choose_engine(wanted, env, lock_dir=home / "locks", cache_dir=home / "cache")


def found(name: str, env: dict[str, str], *, with_versions: bool = False) -> Found:
    """Find one engine."""
    return next(each for each in find_engines(env, with_versions=with_versions) if each.name == name)


def maker(printed: str) -> tuple[str, str]:
    """Return name and version of the engine that made the environment with the printed prefix."""
    marker = json.loads(Path(printed.strip(), "conda-meta", "cetool").read_text(encoding="utf-8"))
    return marker["engine"], marker["engine_version"]


def test_engines_are_tried_in_order(home: Home, env: dict[str, str]) -> None:
    """mamba, micromamba, conda, then the built-in engine; the reason says where it was found."""
    assert [each.name for each in find_engines(env)] == list(NAMES)
    engine, reason = choose(None, env)
    assert engine.name == "rattler" and "built in" in reason
    for name in ("conda", "micromamba", "mamba"):
        install_fakes(home.bin, name)
        engine, reason = choose(None, env)
        assert engine.name == name
        assert str(home.bin / name) in reason and "PATH" in reason


def test_variables_come_first_and_distinguish_mamba_from_micromamba(home: Home, env: dict[str, str]) -> None:
    """Both set MAMBA_EXE."""
    install_fakes(home.path / "away", "micromamba", "conda")
    install_fakes(home.bin, "conda")
    env |= {"MAMBA_EXE": str(home.path / "away" / "micromamba"), "CONDA_EXE": str(home.path / "away" / "conda")}
    assert found("mamba", env).path is None
    assert found("micromamba", env).path == env["MAMBA_EXE"]
    assert found("conda", env).path == env["CONDA_EXE"] and found("conda", env).how == "CONDA_EXE"


def test_engines_are_found_in_usual_directories(home: Home, env: dict[str, str]) -> None:
    """Also if they are not on the PATH."""
    install_fakes(home.path / "miniforge3" / "bin", "conda")
    assert found("conda", env).path == str(home.path / "miniforge3" / "bin" / "conda")
    assert choose("conda", env)[0].version == "26.7.1"


def test_an_engine_with_a_recorded_version_is_not_asked(home: Home, env: dict[str, str]) -> None:
    """conda is slow to print its version; only `info` asks."""
    root = home.path / "miniforge3"
    home.write("miniforge3/bin/conda", "#!/bin/sh\nexit 3\n", executable=True)
    for record in ("conda-26.5.0-py312_0", "conda-libmamba-solver-26.4.1-pyhd8ed1ab_0", "python-3.12.1-h_0"):
        home.write(f"miniforge3/conda-meta/{record}.json", "{}")
    engine, reason = choose("conda", env)
    assert (engine.name, engine.version) == ("conda", "26.5.0") and str(root) in reason
    assert found("conda", env, with_versions=True).problem is not None
    home.write("miniforge3/conda-meta/conda-26.6.0-py312_0.json", "{}")  # two records: the version is unclear
    with pytest.raises(EngineError):
        choose("conda", env)


def test_a_genuine_conda_is_not_asked(home: Home) -> None:
    """conda is slow to print its version, which is also in the environment's history."""
    home.write(
        "bin/conda",
        "#!/bin/sh\n# from conda.cli import main\n"
        f'test "$1" = create && exec "{sys.executable}" "{FAKE}" conda "$@"; sleep 30\n',
        executable=True,
    )
    done = home.cetool("create", "python", env={"CETOOL_ENGINE": "conda", "PATH": PATH.format(home)})
    assert done.returncode == 0 and maker(done.stdout) == ("conda", "26.7.1"), done.stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is here, and micromamba is a binary")
def test_a_genuine_micromamba_is_asked_while_it_works(home: Home) -> None:
    """It prints its version only after the creation has begun."""
    home.write(
        "real",
        f'#!/bin/sh\ntest "$1" = create && touch {home.path}/begun\n'
        f"for _ in 1 2 3 4 5 6 7 8 9; do test -e {home.path}/begun && break; sleep 1; done\n"
        f'test -e {home.path}/begun && exec "{sys.executable}" "{FAKE}" micromamba "$@"\nexit 3\n',
        executable=True,
    )
    code = f'#include <unistd.h>\nint main(int c, char **v) {{ return execv("{home.path}/real", v); }}\n'
    source = home.write("micromamba.c", code)
    subprocess.run(["cc", "-o", home.bin / "micromamba", source], check=True)
    done = home.cetool("create", "python", env={"CETOOL_ENGINE": "micromamba", "PATH": PATH.format(home)})
    assert done.returncode == 0 and maker(done.stdout) == ("micromamba", "2.8.1"), done.stderr


def test_a_fake_engine_is_skipped_when_it_fails(home: Home) -> None:
    """The next engine makes the environment; if this engine was requested, the error says what is wrong."""
    home.write(
        "bin/conda", "#!/bin/sh\n# from conda.cli import main\necho its python is gone >&2; exit 3\n", executable=True
    )
    env = {"PATH": PATH.format(home)}
    done = home.cetool("create", "python", env={**env, "CETOOL_ENGINE": "conda"})
    assert done.returncode == 125 and "cannot use conda at" in done.stderr and "python is gone" in done.stderr
    assert not list(home.cache.glob("envs/*"))
    done = home.cetool("create", "python", env=env)
    assert done.returncode == 0 and maker(done.stdout) == ("rattler", rattler.__version__), done.stderr


def test_other_programs_of_the_same_name_are_skipped(home: Home, env: dict[str, str]) -> None:
    """PyPI's mamba is a test runner; a program that does not start is skipped too."""
    home.write("bin/mamba", "#!/bin/sh\necho 0.11.3\n", executable=True)
    home.write("bin/micromamba", "#!/bin/sh\necho broken >&2; exit 3\n", executable=True)
    engine, reason = choose(None, env)
    assert engine.name == "rattler"
    assert "another program of the same name" in reason and "broken" in reason
    with pytest.raises(EngineError, match="0.11.3"):
        choose("mamba", env)
    (home.bin / "conda").mkdir()
    assert found("conda", env).path is None


def test_mamba_1_is_treated_as_conda(home: Home, env: dict[str, str]) -> None:
    """It has conda's command line, and only one runs at a time."""
    home.write("bin/mamba", "#!/bin/sh\nprintf 'mamba 1.5.8\\nconda 24.1.0\\n'\n", executable=True)
    engine, _ = choose("mamba", env)
    assert getattr(engine, "kind", None) is CONDA and engine.name == "mamba" and engine.version == "1.5.8"
    assert found("mamba", env, with_versions=True).version == "1.5.8"


def test_unusable_scripts_are_avoided(home: Home, env: dict[str, str]) -> None:
    """A conda installed by pip runs with its python; a pyenv shim is not used."""
    home.write("bin/conda", "#!/usr/bin/python3\nfrom conda.cli.main_pip import main\n", executable=True)
    assert "installed by pip" in str(found("conda", env).problem)
    fake = '#!/bin/sh\ntest "$*" = "-I -B -m conda --version" && echo conda 26.7.1\n'
    home.write("bin/python", fake, executable=True)
    assert choose("conda", env)[0].version == "26.7.1"
    home.write(
        "bin/conda", '#!/usr/bin/env bash\nexec "/home/u/.pyenv/libexec/pyenv" exec conda "$@"\n', executable=True
    )
    assert "pyenv shim" in str(found("conda", env).problem)
    with pytest.raises(EngineError, match="pyenv shim"):
        choose("conda", env)


def test_unknown_engines_get_a_hint(env: dict[str, str]) -> None:
    """A typo gets a suggestion; a missing engine gets the places that were searched."""
    with pytest.raises(UsageError) as caught:
        choose("micromanba", env)
    assert "micromamba'?" in str(caught.value.hint)
    with pytest.raises(EngineError, match="MAMBA_EXE.*PATH.*usual director"):
        choose("micromamba", env)


def test_forgetting_a_registration_keeps_the_rest(tmp_path: Path) -> None:
    """Byte for byte, through a symbolic link, and without temporary files."""
    real = tmp_path / "dotfiles" / "environments.txt"
    real.parent.mkdir()
    (tmp_path / ".conda").mkdir()
    registry = tmp_path / ".conda" / "environments.txt"
    registry.symlink_to(real)
    ours = tmp_path / "env"
    real.write_bytes(b"/a\r\n" + bytes(ours) + b"\n/b \xff\n" + bytes(ours) + b"/\n" + bytes(ours) + b"2\n")
    assert forget_registration(ours, {"HOME": str(tmp_path)})
    assert real.read_bytes() == b"/a\r\n/b \xff\n" + bytes(ours) + b"2\n"
    assert registry.is_symlink() and list(real.parent.iterdir()) == [real]
    assert not forget_registration(ours, {"HOME": str(tmp_path)})


def test_an_empty_registry_is_removed(tmp_path: Path) -> None:
    """Its directory is removed too if it is empty."""
    registry = tmp_path / ".conda" / "environments.txt"
    registry.parent.mkdir()
    registry.write_bytes(bytes(tmp_path / "env") + b"\n")
    assert forget_registration(tmp_path / "env", {"HOME": str(tmp_path)})
    assert not registry.parent.exists()


def test_concurrent_changes_of_the_registry_are_kept(tmp_path: Path) -> None:
    """No process loses another's line or adds one back."""
    registry = tmp_path / ".conda" / "environments.txt"
    registry.parent.mkdir()
    lines = [f"{tmp_path}/{kind}{number}" for number in range(12) for kind in ("ours", "theirs")]
    registry.write_text("".join(f"{line}\n" for line in lines))
    env = {"HOME": str(tmp_path)}
    threads = [
        threading.Thread(target=forget_registration, args=(Path(line), env)) for line in lines if "/ours" in line
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.read_text().splitlines() == [line for line in lines if "/theirs" in line]


def test_incomplete_environments_are_detected(tmp_path: Path) -> None:
    """A complete environment has a history, readable records, and their files."""
    meta = tmp_path / "conda-meta"

    def reason() -> str:
        with pytest.raises(EngineError) as caught:
            check_complete(tmp_path)
        return caught.value.message

    assert "conda-meta is missing" in reason()
    meta.mkdir()
    assert "history is missing" in reason()
    (meta / "history").touch()
    assert "history is empty" in reason()
    (meta / "history").write_text("==> 2026 <==\n")
    assert "no package" in reason()
    record = meta / "a-1-0.json"
    record.write_text("{")
    assert "cannot read the package record a-1-0.json" in reason()
    record.write_text(json.dumps({"name": "a", "version": "1", "build": "0", "files": "bin/a"}))
    assert "a-1-0.json: not a package record: 'files' is not a list of strings" in reason()
    record.write_text(json.dumps({"name": "a", "version": "1", "build": "0", "files": ["bin/a", "bin/b", "lib/x.pyc"]}))
    assert "2 of the 2 files of a" in reason()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "a").symlink_to("nowhere")
    (tmp_path / "bin" / "b").touch()
    (meta / "cetool.json").write_text("{}")
    assert check_complete(tmp_path)[0] == 1
    record.unlink()
    assert check_complete(tmp_path, expect_packages=False)[0] == 0
