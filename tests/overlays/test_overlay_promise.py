"""The promise of overlays: root's environment, another user's newer numpy, everything right, nothing changed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home
from support.overlays import make_base, make_wheel, snapshot

import cetool

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX users")

_NUMPY = {
    (3, 10): ("1.26.4", "2.2.6", "1.3.8"),
    (3, 13): ("2.1.0", "2.4.6", "1.4.2"),
    (3, 14): ("2.3.5", "2.4.6", "1.6.0"),
}


@pytest.fixture
def shift_worker(local_channel: Channel) -> Iterator[Home]:
    """The home of an unprivileged user, and the command line run as that user, by a Python that the user can read."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, by setpriv")
    root = Path(tempfile.mkdtemp(prefix="cetool-shift-"))
    root.chmod(0o755)
    runner = make_base(root / "runner", local_channel)
    path = root / "home"
    path.mkdir()
    source = Path(cetool.__file__).parents[1]
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    env = {
        "HOME": str(path),
        "PATH": f"{Path(sys.prefix, 'bin')}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join([str(source), *packages]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CETOOL_CACHE_DIR": str(path / "cetool"),
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))},
        "UV_CACHE_DIR": str(path / "uv"),
        "PIP_CACHE_DIR": str(path / "pip"),
    }
    (path / ".condarc").write_text(local_channel.condarc)
    os.chown(path, 65534, 65534)
    home = Home(path, env)
    command = [*_AS_NOBODY, str(runner / "bin/python"), "-c", "import cetool.cli.app"]
    if home.run(*command).returncode:
        shutil.rmtree(root)
        pytest.skip("another user cannot read this interpreter's packages")
    yield home
    shutil.rmtree(root)


_AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def test_a_user_overlays_roots_environment(shift_worker: Home, local_channel: Channel, tmp_path: Path) -> None:
    """CEP 22: Specification."""
    old, new, bottleneck = _NUMPY.get(sys.version_info[:2], ("1.26.4", "2.4.6", "1.3.8"))
    root = shift_worker.path.parent
    base = make_base(root / "beamline-2026.2", local_channel, wheels=[f"numpy=={old}", f"bottleneck=={bottleneck}"])
    index = root / "wheels"
    make_wheel(
        index, "ovpure", "1.0", [f"numpy >={new}"], scripts={"ovpure-tool": "ovpure:main"}, files={"ovpure.py": _PURE}
    )
    index.chmod(0o755)
    before = snapshot(base)
    code = """\
import bottleneck, numpy, os, ovpure, subprocess, sys
from importlib import metadata
total = float(bottleneck.nansum(numpy.arange(4.0)))
print(numpy.__version__, metadata.version("numpy"), total, os.getuid(), flush=True)
subprocess.run(["ovpure-tool"])
subprocess.run(["f2py", "-v"])
subprocess.run([sys.executable, "-m", "pip", "check"])
"""
    path = shift_worker.write(
        "script.py", f"# conda execute\n# base: {base}\n# overlay: [ovpure, numpy =={new}]\n{code}"
    )
    path.chmod(0o644)
    env = {"UV_FIND_LINKS": str(index), "PIP_FIND_LINKS": str(index)}
    cetool_as_nobody = (*_AS_NOBODY, str(root / "runner/bin/python"), "-m", "cetool")
    done = shift_worker.run(*cetool_as_nobody, path, env=env)
    assert done.returncode == 0, done.stderr
    expected = [f"{new} {new} 6.0 65534", f"ovpure with numpy {new}", new, "No broken requirements found."]
    assert done.stdout.splitlines() == expected
    assert snapshot(base) == before
    removed = shift_worker.run(*cetool_as_nobody, "remove", path, env=env)
    assert removed.returncode == 0, removed.stderr
    assert [each for each in (shift_worker.cache / "overlays/beamline-2026.2").rglob("*") if each.is_file()] == []
    assert snapshot(base) == before


_PURE = "def main():\n    import numpy\n    print('ovpure with numpy', numpy.__version__)\n"
