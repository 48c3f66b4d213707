"""conda's configuration: which files count, how they are merged, what variables change, what channels stand for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cetool.base.errors import ConfigError
from cetool.declare.channels import resolve_channel
from cetool.settings.condarc import Condarc, load_condarc


@pytest.fixture
def world(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with an empty home; no file of this machine's own may count in these tests."""
    if any(Path(directory, "condarc").exists() for directory in ("/etc/conda", "/var/lib/conda")):
        pytest.skip("this machine has a configuration for all users")
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_files_nothing_is_configured_and_no_yaml_is_imported(world: dict[str, str]) -> None:
    code = (
        "import sys; from cetool.settings.condarc import Condarc, load_condarc;"
        f"assert load_condarc({world!r}) == Condarc(); assert not any('ruamel' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_later_files_of_the_search_path_come_first_and_lists_add_up(world: dict[str, str], tmp_path: Path) -> None:
    home = Path(world["HOME"])
    files = [
        write(tmp_path / "root/.condarc", "channels: [root]\noffline: false\ncustom_channels: {acme: https://root}\n"),
        write(home / ".config/conda/condarc", "channels: [config]\n"),
        write(home / ".conda/condarc.d/10.yml", "channels: [drop-in]\n"),
        write(home / ".conda/condarc.d/20.yaml", "channels: [drop-in-2]\n"),
        write(home / ".condarc", "channels: [user, root]\noffline: yes\ncustom_channels: {other: https://user}\n"),
        write(tmp_path / "env/.condarc", "channels: [prefix]\n"),
        write(tmp_path / "more.yml", "channels: [named]\ncustom_channels: {acme: https://named}\n"),
    ]
    write(home / ".conda/condarc.d/ignored.txt", "channels: [ignored]\n")
    write(home / ".mambarc", "channels: [mamba]\n")
    world |= {"CONDA_PREFIX": str(tmp_path / "env"), "CONDARC": str(tmp_path / "more.yml")}
    read = load_condarc(world, root_prefix=str(tmp_path / "root"))
    assert read.sources == tuple(map(str, files))
    assert read.channels == ("named", "prefix", "user", "root", "drop-in-2", "drop-in", "config")
    assert read.custom_channels == {"acme": "https://named", "other": "https://user"}
    assert read.offline is True
    assert "mamba" in load_condarc(world, mamba=True).channels


def test_flags_in_comments_are_obeyed(world: dict[str, str], tmp_path: Path) -> None:
    low = "channels:\n  - first  #!top\n  - middle\n  - last  #!bottom\nchannel_alias: https://low  #!final\n"
    write(Path(world["HOME"]) / ".condarc", low)
    write(tmp_path / "high.yml", "channels: [high, last]\nchannel_alias: https://high\n")
    read = load_condarc({**world, "CONDARC": str(tmp_path / "high.yml")})
    assert read.channels == ("first", "high", "middle", "last")
    assert read.channel_alias == "https://low"


def test_variables_win_and_are_replaced_in_values(world: dict[str, str]) -> None:
    write(
        Path(world["HOME"]) / ".condarc",
        "channels: ['https://${CHANNEL_USER}:${UNSET}@host/c']\nchannel_priority: true\nssl_verify: ~/ca.pem\n",
    )
    world |= {
        "CHANNEL_USER": "me",
        "CONDA_CHANNELS": "one, two",
        "CONDA_CHANNEL_ALIAS": "https://alias",
        "CONDA_OFFLINE": "true",
        "CONDA_PKGS_DIRS": "~/pkgs",
        "CONDA_CHANNEL_PRIORITY": "strict",
        "CONDA_REMOTE_MAX_RETRIES": "7",
    }
    read = load_condarc(world)
    assert read.channels == ("one", "two", "https://me:${UNSET}@host/c")
    assert (read.channel_alias, read.offline, read.channel_priority) == ("https://alias", True, "strict")
    assert read.pkgs_dirs == (f"{world['HOME']}/pkgs",)
    assert read.ssl_verify == f"{world['HOME']}/ca.pem"
    assert read.remote_max_retries == 7


def test_our_section_is_given_with_the_line_of_each_key(world: dict[str, str]) -> None:
    file = write(
        Path(world["HOME"]) / ".condarc",
        "channels: []\nconda-execute:\n    # a comment\n    env-dir: '{config.envs_dirs[0]}/../x'\n    what: 3\n",
    )
    section = load_condarc(world).section
    assert {key: (value, str(where)) for key, (value, where) in section.items()} == {
        "env-dir": ("{config.envs_dirs[0]}/../x", f"{file}:4"),
        "what": (3, f"{file}:5"),
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("channels:\n  - a\n bad: [", 3),
        ("channels: [a\n", 2),
        ("- a\n- b\n", 1),
        ("offline: true\noffline: false\n", 2),
        ("a: 1\nchannels: conda-forge\n", 2),
        ("a: 1\n\nchannel_priority: sometimes\n", 3),
        ("remote_max_retries: many\n", 1),
        ("custom_channels: [a]\n", 1),
        ("conda-execute: 3\n", 1),
    ],
)
def test_a_broken_file_is_an_error_at_its_line(world: dict[str, str], text: str, line: int) -> None:
    file = write(Path(world["HOME"]) / ".condarc", text)
    with pytest.raises(ConfigError) as caught:
        load_condarc(world)
    assert caught.value.where is not None
    assert (caught.value.where.path, caught.value.where.line) == (str(file), line)


def test_keys_of_conda_itself_and_empty_files_are_none_of_our_business(world: dict[str, str]) -> None:
    write(
        Path(world["HOME"]) / ".condarc",
        "solver: libmamba\nremote_connect_timeout_secs: fast\nchangeps1: [1, {2: 3}]\nchannels:\n",
    )
    write(Path(world["HOME"]) / ".conda/condarc", "# nothing\n")
    assert load_condarc(world).channels == ()


def test_bad_bytes_are_named_and_credentials_are_not(world: dict[str, str]) -> None:
    file = Path(world["HOME"]) / ".condarc"
    file.write_bytes(b"channels:\n  - \xff\xfe\n")
    with pytest.raises(ConfigError, match="condarc:2: not UTF-8 text"):
        load_condarc(world)
    file.write_text("channels: {a: 'https://me:hush-hush@host'}\n")
    with pytest.raises(ConfigError) as caught:
        load_condarc(world)
    assert "hush" not in f"{caught.value} {caught.value.hint}"


def test_channels_stand_for_urls(tmp_path: Path) -> None:
    condarc = Condarc(
        channel_alias="https://alias.example/conda/",
        custom_channels={"acme": "https://acme.example/pkgs", "here": str(tmp_path)},
        custom_multichannels={"both": ("acme", "https://third.example/c/")},
    )
    assert resolve_channel("conda-forge", condarc) == ("https://alias.example/conda/conda-forge",)
    assert resolve_channel("acme/label/dev", condarc) == ("https://acme.example/pkgs/acme/label/dev",)
    assert resolve_channel("here", condarc) == (f"{tmp_path.as_uri()}/here",)
    assert resolve_channel("both", condarc) == ("https://acme.example/pkgs/acme", "https://third.example/c")
    assert resolve_channel("https://u:p@x.example/c/", condarc) == ("https://u:p@x.example/c",)
    assert resolve_channel(str(tmp_path), condarc) == (tmp_path.as_uri(),)
    assert resolve_channel("defaults", condarc)[0] == "https://repo.anaconda.com/pkgs/main"
    assert resolve_channel("defaults", Condarc(default_channels=("main",))) == ("https://conda.anaconda.org/main",)
