"""Launch records that are damaged or could be another user's, and blocks that count as unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.home import Home
from support.scripts import as_nobody_known, shell_script, unconfirmed
from support.warm import COLD, command, is_warm, learn, records, trap

from cetool import warm
from cetool.base.errors import CetoolError
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.source import read_script
from cetool.warm.declared import block_in, head_of

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is no warm path")

TEXT = shell_script("printf '%s\\n' \"$0\"")


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.fixture
def record(home: Home) -> Path:
    """Return the only record of a home, for ``script.sh``."""
    script = home.write("script.sh", TEXT)
    learn(home, script)
    (path,) = records(home)
    assert is_warm(home, script)
    return path


def test_a_damaged_record_leads_to_the_cold_path(home: Home, record: Path) -> None:
    data = record.read_bytes()
    assert warm.read_record(os.fsencode(record)) is not None
    spoilt = [data[:length] for length in range(len(data))]
    spoilt += [data[:at] + b"\0" + data[at:] for at in range(len(data))]
    spoilt += [data + b"\0", data + data, data.replace(warm.MAGIC, b"cetool launch 1"), os.urandom(len(data))]
    spoilt += [data[:at] + bytes(len(data) - at) for at in range(0, len(data), 7)]
    for text in spoilt:
        record.write_bytes(text)
        try:
            assert warm.read_record(os.fsencode(record)) is None
        except (ValueError, IndexError):
            continue
    for text in (b"", data[:200], data[:-3], b"\0" * 5000, b"x" * (warm.MOST_BYTES + 1)):
        record.write_bytes(text)
        assert not is_warm(home, "script.sh")
        learn(home, home.path / "script.sh")


def test_a_record_of_the_previous_version_is_replaced_silently(home: Home, record: Path) -> None:
    """A launch record of version 2, and an environment with the name that commit cc5c68b gave a lock with variables."""
    data = record.read_bytes()
    record.write_bytes(data.replace(warm.MAGIC, b"cetool launch 2"))
    envs = home.cache / "envs"
    (made,) = (path for path in envs.iterdir() if (path / "conda-meta" / "cetool").exists())
    marker = json.loads((made / "conda-meta" / "cetool").read_text())
    lines, variables = ("https://h/noarch/a-1-0.conda",), {"A": "\U0001fae8"}
    text = "\n".join(["@EXPLICIT", *lines, repr(tuple(variables.items()))])
    name = hashlib.sha256(text.encode()).hexdigest()[:20]
    old = envs / name
    shutil.copytree(made, old, symlinks=True)
    spec = {"packages": ["a"], "channels": ["conda-forge"], "variables": variables, "explicit": lines}
    (old / "conda-meta" / "cetool").write_text(json.dumps({**marker, "name": name, "prefix": str(old), "spec": spec}))
    done = home.cetool("script.sh")
    assert (done.returncode, unconfirmed(done.stderr)) == (0, "")
    assert record.read_bytes().startswith(warm.MAGIC) and is_warm(home, "script.sh")
    listed = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert {each["name"] for each in listed} == {made.name, name}
    assert home.cetool("gc", "--all").stderr.count("defect") == 0 and not old.exists()


def test_a_record_that_others_could_have_written_is_ignored(home: Home, record: Path) -> None:
    data = record.read_bytes()
    script = home.path / "script.sh"

    def put(make: Callable[[], object] = lambda: record.write_bytes(data), mode: int = 0o600, owner: int = -1) -> None:
        record.unlink()
        make()
        os.chmod(record, mode)
        os.chown(record, owner, -1)
        assert not is_warm(home, script)
        shutil.rmtree(record) if record.is_dir() else record.unlink()
        record.write_bytes(data)
        assert is_warm(home, script)

    aside = home.path / "aside"
    aside.write_bytes(data)
    put(lambda: os.link(aside, record))
    put(lambda: record.symlink_to(aside))
    put(lambda: os.mkfifo(record))
    put(record.mkdir)
    put(mode=0o660)
    put(mode=0o602)
    for mode in (0o770, 0o707):
        record.parent.chmod(mode)
        assert not is_warm(home, script)
    record.parent.chmod(0o700)
    if os.geteuid() == 0:
        put(owner=12345)
        os.chown(record.parent, 12345, -1)
        assert not is_warm(home, script)


def test_runs_work_without_records(home: Home, record: Path) -> None:
    script = home.path / "script.sh"
    launch = record.parent
    shutil.rmtree(launch)
    assert not is_warm(home, script)
    launch.touch()
    assert learn(home, script) == f"{script}\n"
    launch.unlink()
    aside = home.path / "aside"
    aside.mkdir()
    launch.symlink_to(aside)
    assert learn(home, script) == f"{script}\n"
    assert not is_warm(home, script)
    assert list(aside.iterdir()) == []
    launch.unlink()
    learn(home, script)
    assert is_warm(home, script)
    # an existing file with the name of the temporary one does no harm
    assert [path.name for path in launch.iterdir()] == [record.name]


def test_another_users_records_are_ignored(home: Home, record: Path) -> None:
    done = home.run(*as_nobody_known(), *command(home.path / "script.sh"), env=trap(home))
    assert done.returncode == COLD
    assert home.run(*as_nobody_known(), *command(home.path / "script.sh")).returncode == 125


def test_a_warm_run_becomes_cold_every_hour(home: Home, record: Path) -> None:
    script = home.path / "script.sh"
    stamp = home.cache / "gc.stamp"
    for age in (3601, -500):
        os.utime(stamp, (time.time() - age,) * 2)
        assert not is_warm(home, script)
        learn(home, script)
        assert is_warm(home, script)
        assert abs(time.time() - stamp.stat().st_mtime) < 60
    for _ in range(50):
        stamp.unlink(missing_ok=True)
        if not is_warm(home, script):
            break
        time.sleep(0.1)  # a background collection that was still running has changed the stamp
    else:
        pytest.fail("without the stamp it is warm all the same")
    learn(home, script)
    assert stamp.exists()
    # if no collection is ever started, nothing waits for one
    env = {"CETOOL_AUTO_GC": "false"}
    learn(home, script, env=env)
    os.utime(stamp, (1, 1))
    assert is_warm(home, script, env=env)


def test_old_records_are_collected(home: Home, record: Path) -> None:
    old = record.with_name("0" * 32)
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert home.cetool("gc").returncode == 0
    assert records(home) == [record]


# --- blocks -----------------------------------------------------------------------------------------------------------

_BLOCKS = (
    "# conda execute\n# env:\n#  - python >=3\n#  - numpy\n",
    "# conda execute\n## more\n# env: [six]\n# run_with: python -u\n",
    "// conda execute\n// env: [nodejs]\n",
    ";; conda execute:\n;; env: [six]\n",
    "; conda execute\n; env: [six]\n",
    "' conda execute\n' env: [r-base]\n",
    "\t# conda execute\n\t# env: [six]\n",
    "# /// script\n# dependencies = ['six']\n# requires-python = '>=3'\n# ///\n",
    "# /// script\n# [tool.conda]\n# dependencies = ['six']\n# ///\n# [tool.uv]\n# ///\n",
    '# /// conda-script\n# channels = ["conda-forge"]\n# [dependencies]\n# six = "*"\n# /// end-conda-script\n',
    ' * /// conda-script\n * channels = ["conda-forge"]\n * entrypoint = "x ${SCRIPT}"\n * /// end-conda-script\n',
    ': /// conda-script\n: channels = ["conda-forge"]\n: /// end-conda-script\n',
)
_LINES = st.sampled_from(
    [
        *(
            "",
            " ",
            "#",
            "# more",
            "## more",
            "//",
            "// x",
            "; x",
            "' x",
            "print(1)",
            "# ///",
            "# /// other",
            "# /// script",
        ),
        *(
            "\u00a0# more",
            "\x1c# x",
            "\u3000// y",
            "\x0c# z",
            "\ufeff# x",
            "#!/bin/sh",
            "#!/usr/bin/env python",
            "/* x",
        ),
        *("file:///tmp", "# file:///conda execute", ":/// conda-script", "://// conda-script", "# conda execute"),
        *("# /// conda-script", "/// conda-script", ":: /// end-conda-script", "# coding: latin-1", "x = 'é'", " * x"),
        *(
            "# env: [bzip2]",
            "#conda execute",
            "# conda  execute",
            "//// conda-script",
            "#: /// conda-script",
            "\r",
            "\x85",
        ),
        *(block.split("\n")[0] for block in _BLOCKS),
    ]
)
_SCRIPT = st.tuples(
    st.sampled_from(["", "\ufeff"]),
    st.lists(_LINES, max_size=4),
    st.sampled_from(_BLOCKS),
    st.lists(_LINES, max_size=4),
)


def _bytes(parts: tuple[str, list[str], str, list[str]], end: str = "\n") -> bytes:
    mark, before, block, behind = parts
    text = mark + "".join(line + "\n" for line in before) + block + "".join(line + "\n" for line in behind)
    return text.replace("\n", end).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for generated scripts."""
    return tmp_path_factory.mktemp("generated")


@settings(max_examples=400, deadline=None)
@given(
    original=_SCRIPT,
    edited=_SCRIPT,
    keep=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    suffix=st.sampled_from([".py", ".sh", ""]),
)
@example(("", [], _BLOCKS[0], []), ("", [], "", ["\u00a0# - six"]), True, "\n", ".py")
@example(("", [], _BLOCKS[0], []), ("", [":/// conda-script", ":/// end-conda-script"], "", []), True, "\n", ".py")
def test_a_block_that_counts_as_unchanged_parses_the_same(
    place: Path,
    original: tuple[str, list[str], str, list[str]],
    edited: tuple[str, list[str], str, list[str]],
    keep: bool,
    end: str,
    suffix: str,
) -> None:
    path = place / f"script{suffix}"
    data = _bytes(original, end)
    first = _metadata(path, data)
    if first is None or first.lines is None:
        return
    block = b"".join(line + b"\n" for line in data.split(b"\n")[first.lines[0] - 1 : first.lines[1]])
    head = head_of(data)
    if not block_in(data, head, block):
        return
    other = (
        _bytes((edited[0], edited[1], "", []), end) + (block if keep else b"") + _bytes(("", [], "", edited[3]), end)
    )
    for changed in (other, other.removeprefix(b"\xef\xbb\xbf"), data + _bytes(("", [], "", edited[3]))):
        if block_in(changed, head, block):
            second = _metadata(path, changed)
            assert second is not None, changed
            assert (second.requirements, second.run_with, second.entrypoint) == (
                first.requirements,
                first.run_with,
                first.entrypoint,
            )


def _metadata(path: Path, data: bytes) -> ScriptMetadata | None:
    path.write_bytes(data)
    try:
        return read_metadata(read_script(path))
    except CetoolError:
        return None


def test_common_edits_stay_on_the_warm_path() -> None:
    for block in _BLOCKS:
        data = f'#!/bin/sh\n"""Says something."""\n{block}\nbody\n'.encode()
        head, lines = head_of(data), block.encode()
        assert block_in(data, head, lines)
        assert block_in(data + b"more = 'https://x/y'\n# file:///etc\n", head, lines)
        assert block_in(data.replace(b"something", b"something else\n\n"), head, lines)
        assert block_in(data.replace(b"\nbody", b'"""text"""\nbody'), head, lines)
