"""The project's development tasks: ``nox -s tests``, or without nox ``python3 noxfile.py tests``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tools"))
    from bootstrap import run_nox

    sys.exit(run_nox(sys.argv[1:], ROOT))

import nox  # noqa: E402 - may not be installed when this file is run as a program

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
# sessions install with pip, which building the test channel needs too
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
SOURCES = ("cetool", "tests", "tools", "benchmarks", "examples", "noxfile.py")
# for proxies with their own certificate: pip trusts the system's certificates, uv only with this setting
UV = {"UV_SYSTEM_CERTS": "true"}


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of a dependency group in pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def extra(name: str) -> tuple[str, ...]:
    """Return the requirements of an extra in pyproject.toml."""
    return tuple(PYPROJECT["project"]["optional-dependencies"][name])


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """Build the wheel and install it with these requirements, so that tests run what users get."""
    wheels = Path(session.create_tmp()).resolve() / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), ".", silent=True)
    (wheel,) = wheels.glob("cetool-*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel), silent=True)
    session.install(str(wheel), *requirements)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the installed wheel, on all cores; arguments are passed to pytest."""
    install_wheel(session, *extra("server"), *group("test"))
    session.run("python", "tools/browser.py")
    session.run("pytest", "-n", "auto", *session.posargs, env={"CETOOL_TEST_INSTALLED": "1", **UV})


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and report line coverage, including subprocesses."""
    install_wheel(session, *extra("server"), *group("test"))
    session.run("python", "tools/browser.py")
    session.run("coverage", "erase")
    session.run("coverage", "run", str(Path(session.bin) / "pytest"), "-n", "auto", *session.posargs, env=UV)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, and the layers of docs/explanation/architecture.md with import-linter."""
    session.install(*group("lint"))
    session.run("ruff", "check", *SOURCES)
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("python", "tools/words.py")
    session.run("lint-imports", "--no-cache")


@nox.session
def reference(session: nox.Session) -> None:
    """Write the man pages and the generated pages of the reference; with `-- --check`, report those out of date."""
    install_wheel(session)
    session.run("python", "tools/reference.py", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy --strict."""
    session.install(*PYPROJECT["project"]["dependencies"], *extra("server"), *group("test"), *group("types"), "nox")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in site/ and check every link; with `-- --serve`, serve it while you write."""
    session.install(*group("docs"))
    if "--serve" in session.posargs:
        session.run("zensical", "serve")
    else:
        session.run("python", "tools/build_site.py")


@nox.session
def record(session: nox.Session) -> None:
    """Record a cold and a warm run as docs/assets/cold-run.svg, the picture of README.md."""
    install_wheel(session, *group("docs"))
    session.run("python", "tools/record.py", env=UV)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz every reader, guided by atheris if it can be installed; arguments: SECONDS [TARGET ...]."""
    install_wheel(session, *extra("server"), *group("test"))
    session.run("pip", "install", "--quiet", "atheris", success_codes=[0, 1])
    with session.chdir("tests"):
        session.run("python", "-m", "fuzz", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Build a local channel and run examples from it with the embedded engine, and with a server."""
    install_wheel(session, *extra("server"))
    session.run("python", "tools/demo.py")


@nox.session
def benchmark(session: nox.Session) -> None:
    """Compare cetool, installed as by `uv tool install`, with other programs; arguments go to the benchmark."""
    install_wheel(session, "uv>=0.5", *group("benchmark"))
    work = Path(session.create_tmp()).resolve()
    (wheel,) = (work / "wheels").glob("cetool-*.whl")
    python = str(work / "installed" / "bin" / "python")
    base = str(Path(session.bin) / "python")
    session.run("uv", "venv", "--quiet", "--clear", "--python", base, str(work / "installed"), env=UV)
    session.run("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python, str(wheel), env=UV)
    session.run(python, "-m", "benchmarks", *session.posargs, external=True)
