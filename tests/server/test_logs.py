"""The logs of builds: they grow line by line, up to a limit, and never have credentials."""

from __future__ import annotations

from pathlib import Path

from cetool.server.builds import logs


def test_a_log_is_read_from_any_offset(tmp_path: Path) -> None:
    assert logs.read(tmp_path, 1) == (b"", 0, True)
    logs.append(tmp_path, 1, "one\ntwo")
    found, after, is_all = logs.read(tmp_path, 1)
    assert [line[9:] for line in found.decode().splitlines()] == ["one", "two"]
    assert (after, is_all) == (len(found), True)
    logs.append(tmp_path, 1, "three")
    assert logs.read(tmp_path, 1, after)[0][9:] == b"three\n"
    assert logs.read(tmp_path, 1, 0, 5) == (found[:5], 5, False)
    assert logs.read(tmp_path, 1, 10**9)[0] == b""


def test_a_log_stops_at_its_limit_but_says_how_the_build_ended(tmp_path: Path) -> None:
    for _ in range(100):
        logs.append(tmp_path, 1, "x" * 100, limit=2000)
    logs.append(tmp_path, 1, "Failed: the reason", limit=2000, last=True)
    text = logs.read(tmp_path, 1)[0].decode()
    assert len(text) < 2300
    assert text.count("later lines are left out") == 1
    assert text.endswith("Failed: the reason\n")


def test_a_log_has_no_credentials(tmp_path: Path) -> None:
    logs.append(tmp_path, 1, "cannot reach https://ana:secret@conda.example.org/t/tk-1234567890/channel")
    text = logs.read(tmp_path, 1)[0].decode()
    assert "secret" not in text and "1234567890" not in text
    assert logs.path_of(tmp_path, 1).stat().st_mode & 0o077 == 0
