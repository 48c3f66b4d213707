"""Scripts that run by themselves: what the kernel calls for ``#!/usr/bin/env cetool`` and its variants."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import FIVE_NUMBERS, SEEDS, SEEDS_NAME, as_nobody_known, told, unconfirmed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shebangs are POSIX's")

BODY = '\n# conda execute\n# env: [hello-bin]\n# run_with: /bin/sh\nprintf \'%s\\n\' "$0" "$@"; hello\n'


@pytest.fixture
def script(settled: Home) -> Path:
    """An executable script with arguments to echo, in a directory with blanks in its name."""
    return settled.write("my scripts/run me.sh", f"#!/usr/bin/env cetool{BODY}", executable=True)


def test_a_script_runs_by_its_shebang(settled: Home) -> None:
    for program in ("cetool", "conda-execute"):
        text = SEEDS.replace("#!/usr/bin/env python", f"#!/usr/bin/env {program}")
        done = settled.run(settled.write(f"seeds/by-{program}.py", text, executable=True))
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(FIVE_NUMBERS, done.stdout)


def test_a_shebang_script_gets_its_arguments_and_working_directory(settled: Home, script: Path) -> None:
    done = settled.run(script, "--help", "a b", "-v", "", cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{script}\n--help\na b\n-v\n\nhello from ")
    done = settled.run("./run me.sh", cwd=script.parent)
    assert done.stdout.startswith("./run me.sh\nhello from "), done.stderr


def test_a_shebang_script_runs_through_symbolic_links(settled: Home, script: Path) -> None:
    for name, target in (("link", script), ("relative", Path("../my scripts/run me.sh")), ("list", script)):
        link = settled.path / "links" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        done = settled.run(link, "x")
        assert done.stdout.startswith(f"{link}\nx\nhello from "), done.stderr
    # a Python script imports the module next to its real file
    settled.write("my scripts/beside.py", "VALUE = 42\n")
    text = "#!/usr/bin/env cetool\n# conda execute\n# env: [python >=3, numpy]\nimport beside; print(beside.VALUE)\n"
    main = settled.write("my scripts/main.py", text, executable=True)
    (settled.path / "links" / "main").symlink_to(main)
    assert settled.run(settled.path / "links" / "main").stdout == "42\n"


def test_a_shebang_script_runs_from_the_path(settled: Home, script: Path) -> None:
    path = f"{script.parent}:{settled.env['PATH']}"
    shutil.copy(script, script.parent / "gc")  # a script that is named like a command
    for name in ("run me.sh", "gc"):
        done = settled.run("sh", "-c", '"$0" "an argument"', name, env={"PATH": path})
        assert done.stdout.startswith(f"{script.parent}/{name}\nan argument\nhello from "), done.stderr


@pytest.mark.skipif(
    subprocess.run(["/usr/bin/env", "-S", "true"], capture_output=True).returncode != 0, reason="env has no -S"
)
def test_a_shebang_can_have_options(settled: Home) -> None:
    for line in ("-S cetool -v", "-S cetool run --verbose", "-S conda-execute -v", "-S cetool -v --with activated --"):
        script = settled.write("options.sh", f"#!/usr/bin/env {line}{BODY}", executable=True)
        done = settled.run(script, "-q")
        assert done.stdout.startswith(f"{script}\n-q\nhello from "), done.stderr
        assert done.stderr.startswith("Using specification: \nenv: [hello-bin")
        assert "run_with: [/bin/sh]" in done.stderr


def test_a_cetool_shebang_does_not_name_the_interpreter(settled: Home) -> None:
    # by its suffix, then: or it would call itself for ever
    for line in ("/usr/bin/env cetool", "/usr/bin/env conda-execute", "/usr/bin/env -S cetool run -q"):
        script = settled.write(
            "suffix.py", f"#!{line}\n# conda execute\n# env: [python >=3, numpy]\nprint(1)\n", executable=True
        )
        done = settled.cetool(script)
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_scripts_can_run_each_other(settled: Home) -> None:
    inner = settled.write(
        "inner.py",
        "#!/usr/bin/env cetool\n# conda execute\n# env: [python >=3, numpy]\n"
        "import os, sys; print(sys.prefix, os.environ['CONDA_SHLVL'], 'ACTIVATED' in os.environ)\n",
        executable=True,
    )
    outer = settled.write(
        "outer.sh",
        f"#!/usr/bin/env cetool\n# conda execute\n# env: [activated]\n# run_with: /bin/sh\n{inner}\n"
        'echo "$CONDA_PREFIX"\n',
        executable=True,
    )
    done = settled.run(outer)
    first, second = done.stdout.splitlines()
    assert first == f"{settled.cache}/envs/{SEEDS_NAME} 1 False", done.stderr
    assert second.startswith(f"{settled.cache}/envs/") and not second.endswith(SEEDS_NAME)


# --- cron: next to no environment -----------------------------------------------------------------------------------


def bare(settled: Home, **more: str) -> dict[str, str | None]:
    """The variables that cron gives, and no others."""
    given: dict[str, str | None] = dict.fromkeys(settled.env)
    return {**given, "PATH": f"{settled.bin}:/usr/bin:/bin", **more}


def test_a_shebang_script_runs_in_the_environment_of_cron(settled: Home, script: Path) -> None:
    settled.write(".cache/.keep", "")
    env = bare(settled, HOME=str(settled.path), SHELL="/bin/sh", LOGNAME="tester")
    done = settled.run("/bin/sh", "-c", f"'{script}' x", env=env, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert f"hello from {settled.path}/.cache/cetool/envs/" in done.stdout
    assert unconfirmed(done.stderr) == ""


def test_a_user_without_any_home_directory_gets_an_error(settled: Home) -> None:
    script = settled.write("nobody.sh", f"#!/usr/bin/env cetool{BODY}", executable=True)
    done = settled.run(*as_nobody_known(), script, env=bare(settled), cwd=Path("/"))
    assert done.returncode == 125
    assert "there is no cache directory: HOME is not set" in told(done.stderr)[0]
    assert "CETOOL_CACHE_DIR" in told(done.stderr)[1]


def test_the_home_directory_can_come_from_the_password_database(settled: Home) -> None:
    import pwd

    home = pwd.getpwuid(os.getuid()).pw_dir
    done = settled.run("cetool", "name", "hello-bin", env=bare(settled), cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{home}/")
    done = settled.run("cetool", "name", "hello-bin", env=bare(settled, HOME="relative"), cwd=Path("/"))
    assert done.returncode == 125
    assert "not an absolute path" in told(done.stderr)[0]
