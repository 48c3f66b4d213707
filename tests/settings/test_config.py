"""Promises of the settings: their precedence, the places in errors, and how `cetool config` changes a file."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home
from typer.testing import CliRunner, Result

from cetool.base.errors import CetoolError, ConfigError, UsageError
from cetool.cli.settings import app
from cetool.settings.file import read_config_file
from cetool.settings.settings import KEYS, Settings, load_settings, variable_of

SEEDS_CONDARC = """\
channels: [conda-forge]
conda-execute:
    # The directory to use to hold the temporary environments.
    env-dir: "{config.envs_dirs[0]}/../tmp_envs"
    # The number of hours that an environment should be unused for.
    remove-if-unused-for: 48
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a machine with an empty home and no conda, also for the commands."""
    variables = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "CETOOL_CONFIG_FILE": str(tmp_path / "c.yaml")}
    for name in ("CONDA_ROOT", "CONDA_EXE", "CONDA_PREFIX", "CONDARC", "XDG_CONFIG_HOME", *map(variable_of, KEYS)):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def config(*arguments: str) -> Result:
    """The command's result; an error is raised, as cetool's door would see it."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


# --- who wins


def test_nothing_set_is_the_built_in(environ: dict[str, str]) -> None:
    loaded = load_settings(environ)
    assert loaded.settings == Settings()
    assert {origin.source for origin in loaded.origins.values()} == {"built-in"}
    assert tuple(loaded.origins) == KEYS


def test_each_layer_overrides_the_one_before(environ: dict[str, str], tmp_path: Path) -> None:
    key, variables = "remove-if-unused-for", dict(environ)
    (tmp_path / ".condarc").write_text(SEEDS_CONDARC)
    assert (load_settings(variables).origins[key].value, load_settings(variables).settings.max_size) == (48.0, None)
    assert load_settings(variables).origins[key].source == f"{tmp_path / '.condarc'}:6"
    (tmp_path / "c.yaml").write_text(f"# mine\n{key}: 3d\n")
    assert load_settings(variables).origins[key].value == 72.0
    assert load_settings(variables).origins[key].source == f"{tmp_path / 'c.yaml'}:2"
    variables["CETOOL_REMOVE_IF_UNUSED_FOR"] = "2"
    assert load_settings(variables).settings.remove_if_unused_for == 2.0
    assert load_settings(variables).origins[key].source == "CETOOL_REMOVE_IF_UNUSED_FOR"
    loaded = load_settings(variables, options={"remove_if_unused_for": "90m", "engine": None, "channels": ("a", "b")})
    assert (loaded.settings.remove_if_unused_for, loaded.origins[key].source) == (1.5, "--remove-if-unused-for")
    assert (loaded.settings.channels, loaded.origins["channels"].source) == (("a", "b"), "--channel")
    assert loaded.origins["engine"].source == "built-in"


def test_every_setting_is_read_from_file_and_variable(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "env-dir: ~/e\nremove-if-unused-for: 1.5\nmax-size: 20GB\nengine: conda\nchannels:\n- a\n- b\noffline: yes\n"
        "auto-gc: &no false\nverbosity: quiet\npip-installer: pip\ntrust-cache-dir: *no\nstall-timeout: 5m\n"
        "pkg-dir: ${HOME}/p\n"
    )
    expected = Settings(
        env_dir=tmp_path / "e", remove_if_unused_for=1.5, max_size=20 * 10**9, engine="conda", channels=("a", "b"),
        offline=True, auto_gc=False, verbosity="quiet", pip_installer="pip", trust_cache_dir=False, stall_timeout=300.0,
        pkg_dir=tmp_path / "p",
    )  # fmt: skip
    assert load_settings(environ).settings == expected
    variables = {
        "ENV_DIR": "~/e2", "REMOVE_IF_UNUSED_FOR": "1d", "MAX_SIZE": "none", "ENGINE": "auto", "CHANNELS": "x, y,",
        "OFFLINE": "0", "AUTO_GC": "TRUE", "VERBOSITY": "", "PIP_INSTALLER": "uv", "TRUST_CACHE_DIR": "1",
        "STALL_TIMEOUT": "90", "PKG_DIR": "/p", "SOMETHING_ELSE": "x",
    }  # fmt: skip
    variables = environ | {f"CETOOL_{name}": value for name, value in variables.items()}
    assert load_settings(variables).settings == Settings(
        env_dir=tmp_path / "e2", remove_if_unused_for=24.0, max_size=None, engine=None, channels=("x", "y"),
        offline=False, auto_gc=True, verbosity="quiet", pip_installer="uv", trust_cache_dir=True, stall_timeout=90.0,
        pkg_dir=Path("/p"),
    )  # fmt: skip


def test_the_seeds_template_follows_condas_envs_dirs(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text(SEEDS_CONDARC)
    assert load_settings(environ).settings.env_dir == tmp_path / ".conda" / "tmp_envs"
    conda = environ | {"CONDA_EXE": str(tmp_path / "conda" / "bin" / "conda")}
    assert load_settings(conda).settings.env_dir == tmp_path / "conda" / "tmp_envs"
    (tmp_path / ".condarc").write_text(SEEDS_CONDARC + "envs_dirs: [/srv/envs]\n")
    assert load_settings(conda).settings.env_dir == Path("/srv/tmp_envs")
    assert load_settings(conda | {"CETOOL_ENV_DIR": "%s/../x"}).settings.env_dir == Path("/srv/x")
    with pytest.raises(ConfigError, match="one of the directories where conda keeps its environments"):
        load_settings(conda | {"CETOOL_ENV_DIR": "/srv/envs"})


def test_without_files_no_yaml_reader_is_imported(environ: dict[str, str]) -> None:
    code = (
        f"import sys, cetool.settings.settings as c; c.load_settings({environ!r}); print('ruamel.yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not any(Path(place, "condarc").exists() or Path(place, ".condarc").exists() for place in ("/etc/conda",)):
        assert done.stdout == "False\n"


# --- what is refused


@pytest.mark.parametrize(
    ("text", "place", "problem", "hint"),
    [
        ("# x\nmax_size: 20GB\n", ":2", "unknown setting 'max_size'", "Did you mean 'max-size'?"),
        ("colour: red\n", ":1", "unknown setting 'colour'", "Use one of: env-dir,"),
        ("\nmax-size: 20\n", ":2", "max-size: the size '20' has no unit", "20GB"),
        ("remove-if-unused-for: true\n", ":1", "remove-if-unused-for must be a duration, not true", "25h"),
        ("remove-if-unused-for: -1\n", ":1", "is negative", "25h"),
        ("remove-if-unused-for: .inf\n", ":1", "is not a duration", "25h"),
        ("engine: bash\n", ":1", "engine must be one of mamba, micromamba, conda, rattler, auto, not 'bash'", ""),
        ("engine: [conda]\n", ":1", "not ['conda']", ""),
        ("offline: maybe\n", ":1", "offline must be true or false, not 'maybe'", ""),
        ("channels: 3\n", ":1", "channels must be a list", "conda-forge"),
        ("channels: [a, -b]\n", ":1", "channels: channel 2 is not a valid channel name", ""),
        ("channels: ['./here']\n", ":1", "channel 1 is a relative path", "starting with /"),
        ("stall-timeout: 0s\n", ":1", "stall-timeout must be more than 0 seconds", ""),
        ("env-dir: envs\n", ":1", "env-dir must be an absolute path, not 'envs'", "starting with /"),
        ("env-dir: ${NOT_SET_HERE}/x\n", ":1", "uses the environment variable NOT_SET_HERE, which is not set", ""),
        ("env-dir: '{config.nothing[0]}'\n", ":1", "which has no value here", "{config.envs_dirs[0]}"),
        ('env-dir: "/a\\nb"\n', ":1", "contains a control character", ""),
        ("engine: conda\nengine: mamba\n", ":2", "found duplicate key", "Fix the file"),
        ("a:\n  b: c: d\n", ":2", "not valid YAML", "Fix the file"),
        ("- engine\n", ":1", "settings must be lines of the form `key: value`", ""),
        ("engine: conda\n---\nengine: conda\n", ":2", "not valid YAML", ""),
        ("engine: \x01\n", ":1", "invalid character", ""),
        ("[" * 5000, ":1", "nested deeper", ""),
    ],
)
def test_an_error_in_a_file_has_its_line(
    environ: dict[str, str], tmp_path: Path, text: str, place: str, problem: str, hint: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}{place}: ")
    assert problem in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_an_invalid_value_elsewhere_names_the_section_the_variable_or_the_option(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^CETOOL_ENGINE: engine must be one of"):
        load_settings(environ | {"CETOOL_ENGINE": "x"})
    with pytest.raises(ConfigError, match=r"^CETOOL_ENGIN is not a variable of cetool") as caught:
        load_settings(environ | {"CETOOL_ENGIN": "conda"})
    assert caught.value.hint == "Did you mean CETOOL_ENGINE? If not, unset CETOOL_ENGIN."
    assert load_settings(environ | {"CETOOL_FUTURE_THING": "1"}).unknown == ("CETOOL_FUTURE_THING",)
    with pytest.raises(UsageError, match=r"^--engine must be one of"):
        load_settings(environ, options={"engine": "x"})
    (tmp_path / ".condarc").write_text("conda-execute:\n  env_dir: /x\n")
    with pytest.raises(ConfigError, match=r"\.condarc:2: unknown setting 'env_dir'"):
        load_settings(environ)


def test_an_unknown_variable_is_ignored_with_a_warning_once(settled: Home) -> None:
    done = settled.cetool("list", env={"CETOOL_FUTURE_THING": "1", "CETOOL_CONFIG": "a", "CETOOL_TEST_X": "1"})
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "warning" in line] == [
        "cetool: warning: CETOOL_CONFIG is not a variable of cetool; did you mean CETOOL_CONFIG_FILE?",
        "cetool: warning: CETOOL_FUTURE_THING is not a variable of cetool",
    ]


def test_unreadable_settings_files_are_errors(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"engine: conda\n# \xff\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: not UTF-8 text"):
        load_settings(environ)
    path.write_bytes(b"\xef\xbb\xbfengine: conda\r\n")
    assert load_settings(environ).settings.engine == "conda"
    with pytest.raises(ConfigError, match="is a directory"):
        load_settings(environ | {"CETOOL_CONFIG_FILE": str(tmp_path)})
    path.write_text("#" * 2_000_000)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_settings(environ)


def test_no_message_shows_a_channels_password(environ: dict[str, str], tmp_path: Path) -> None:
    url = "https://ada:sesame@host/t/TOKEN/ch"
    for text in (f"channels: ['{url}', 'b c']", f"channels: [{url}]\nchannels: [{url}]", f"channels: {{a: '{url}'}}"):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_settings(environ)
        assert "sesame" not in f"{caught.value} {caught.value.hint}"
    (tmp_path / "c.yaml").write_text(f"channels: ['{url}']\n")
    assert load_settings(environ).settings.channels == (url,)
    shown = config("list").output + config("list", "--json").output + config("get", "channels").output
    assert "https://***@host/t/***/ch" in shown
    assert "sesame" not in shown
    assert "TOKEN" not in shown
    with pytest.raises(UsageError) as refused:
        config("set", "channels", url)
    assert "sesame" not in str(refused.value)


# --- the command


def test_list_shows_values_and_where_they_come_from(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("max-size: 500MiB\nstall-timeout: 90\n")
    header, *rows = config("list").stdout.splitlines()
    lines = {line.split()[0]: line.split()[1:] for line in rows}
    assert header.split() == ["SETTING", "VALUE", "FROM"]
    assert lines["max-size"] == ["500MiB", f"{tmp_path / 'c.yaml'}:1"]
    assert lines["stall-timeout"] == ["90s", f"{tmp_path / 'c.yaml'}:2"]
    assert lines["remove-if-unused-for"] == ["25h", "built-in"]
    assert tuple(lines) == KEYS
    document = json.loads(config("list", "--json").stdout)
    assert document["schema"] == "cetool.config/1"
    assert {"key": "max-size", "value": 524288000, "source": f"{tmp_path / 'c.yaml'}:1", "default": None} in document[
        "settings"
    ]


def test_set_makes_a_private_file_and_get_reads_it(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(environ["HOME"], "new", "dir", "config.yaml")
    monkeypatch.setenv("CETOOL_CONFIG_FILE", str(path))
    assert config("path").stdout == f"{path}\n"
    done = config("set", "channels", "conda-forge", "bioconda")
    assert (done.stdout, done.stderr) == ("", f"Set channels = conda-forge, bioconda in {path}\n")
    config("set", "remove-if-unused-for", "36")
    config("set", "auto-gc", "no")
    assert path.read_text() == "channels:\n  - conda-forge\n  - bioconda\nremove-if-unused-for: 36\nauto-gc: false\n"
    assert config("get", "channels").stdout == "conda-forge\nbioconda\n"
    assert config("get", "remove-if-unused-for").stdout == "36h\n"
    assert config("get", "engine").stdout == ""
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


COMMENTED = """\
# é my settings
engine: conda  # as at work

channels:
    - a   # first
    - b   # last
# about offline
offline: true
"""


def test_set_and_unset_touch_nothing_else(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(COMMENTED)
    path.chmod(0o640)
    config("set", "engine", "rattler")
    assert path.read_text() == COMMENTED.replace("conda", "rattler")
    config("set", "channels", "x,y")
    assert "channels:\n  - x\n  - y   # last\n# about offline\noffline: true\n" in path.read_text()
    config("unset", "channels")
    assert path.read_text() == "# é my settings\nengine: rattler  # as at work\n\n# about offline\noffline: true\n"
    config("unset", "engine")
    config("unset", "offline")
    assert path.read_text() == "# é my settings\n\n# about offline\n"
    config("set", "engine", "conda")
    assert path.read_text() == "# é my settings\n\n# about offline\nengine: conda\n"
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{engine: conda, offline: true}  # one line\n", "{engine: mamba, offline: true}  # one line\n"),
        ("engine:   # to be seen\noffline: true", "engine: mamba   # to be seen\noffline: true"),
        ("offline: true", "offline: true\nengine: mamba\n"),
        ("'engine': >-\n  conda\n\n# c\noffline: true\n", "engine: mamba\n# c\noffline: true\n"),
        ("offline: true\r\n# c\r\n", "offline: true\r\n# c\r\nengine: mamba\r\n"),
        ("  offline: true\n", "  offline: true\n  engine: mamba\n"),
        ("\ufeffengine: conda\n", "\ufeffengine: mamba\n"),
        ("---\noffline: true\n...\n", None),
        ("null\n", None),
    ],
)
def test_every_form_of_file_can_be_changed(
    environ: dict[str, str], tmp_path: Path, before: str, after: str | None
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(before.encode())
    others = {key: entry[0] for key, entry in read_config_file(path).items() if key != "engine"}
    config("set", "engine", "mamba")
    assert {key: entry[0] for key, entry in read_config_file(path).items()} == others | {"engine": "mamba"}
    if after is not None:
        assert path.read_bytes().decode() == after


def test_set_checks_before_it_writes(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("engine: conda\n")
    for arguments in (
        ("engine", "x"), ("egnine", "conda"), ("max-size", "20"), ("engine", "conda", "mamba"), ("channels", ""),
        ("env-dir", "relative"), ("env-dir", str(tmp_path / ".conda" / "envs")),
    ):  # fmt: skip
        with pytest.raises(CetoolError):
            config("set", *arguments)
    assert path.read_text() == "engine: conda\n"
    path.write_text("engine: conda: x\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: not valid YAML"):
        config("set", "engine", "mamba")
    assert path.read_text() == "engine: conda: x\n"


def test_set_follows_a_link_and_refuses_special_files(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "real.yaml").write_text("offline: true\n")
    (tmp_path / "c.yaml").symlink_to(tmp_path / "dotfiles" / "real.yaml")
    config("set", "engine", "conda")
    assert (tmp_path / "c.yaml").is_symlink()
    assert (tmp_path / "dotfiles" / "real.yaml").read_text() == "offline: true\nengine: conda\n"
    (tmp_path / "null").symlink_to("/dev/null")
    monkeypatch.setenv("CETOOL_CONFIG_FILE", str(tmp_path / "null"))
    assert config("list").exit_code == 0
    with pytest.raises(ConfigError, match="not a regular file"):
        config("set", "engine", "conda")


def test_a_variable_that_overrides_the_file_is_reported(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CETOOL_ENGINE", "mamba")
    assert "engine is mamba, set by CETOOL_ENGINE" in config("set", "engine", "conda").stderr
    monkeypatch.setenv("CETOOL_ENGINE", "")
    assert config("unset", "engine").stderr == "engine is back to its default (auto)\n"


def test_an_unknown_key_can_be_taken_out(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("colour: red\nengine: conda\n")
    config("unset", "colour")
    assert config("get", "engine").stdout == "conda\n"
    assert "is not set in" in config("unset", "offline").stderr
    with pytest.raises(UsageError, match="unknown setting 'colour'"):
        config("unset", "colour")
