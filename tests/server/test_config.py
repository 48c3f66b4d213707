"""The server's configuration: from a file, variables and options, with errors that name the place."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cetool.base.errors import CetoolError
from cetool.server.config import ServerConfig, load_config, variable_of
from cetool.server.config_values import KEYS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/server-settings.md"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "server.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def environ(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **variables}


def test_every_key_is_a_field_and_is_documented() -> None:
    assert sorted(KEYS) == sorted(each.name.replace("_", "-") for each in fields(ServerConfig))
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(KEYS)


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    config = load_config(environ=environ(tmp_path))
    assert config.data == tmp_path / ".local/share/cetool/server"
    assert (config.host, config.port, config.url_prefix) == ("127.0.0.1", 8484, "")
    assert not config.anonymous_access and config.profiles["plain"] == {}


def test_an_option_overrides_its_variable_which_overrides_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "workers: 1\nlease: 1m\nretries: 1\n")
    variables = environ(tmp_path, CETOOL_SERVER_WORKERS="2", CETOOL_SERVER_RETRIES="2")
    config = load_config(file, {"workers": 3, "url_prefix": "x/", "bind": None}, variables)
    assert (config.workers, config.retries, config.lease, config.url_prefix) == (3, 2, 60.0, "/x")


def test_the_documented_file_is_valid(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").split('```yaml title="server.yaml"\n')[1].split("```")[0]
    config = load_config(written(tmp_path, text), environ=environ(tmp_path))
    assert config.watch[0].recursive and config.watch[0].namespace == "shared"
    assert config.tokens[0].grants == {"ci/*": ("editor",), "shared/*": ("viewer",)}
    assert config.profiles["cuda12"]["linux-64"] == (("__cuda", "12.8"),)
    assert "replace-this" not in repr(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wokers: 2\n", "server.yaml:1: unknown setting 'wokers' of the server"),
        ("\nworkers: many\n", "server.yaml:2: workers must be a number from 0 to 256, not 'many'"),
        ("workers: -1\n", "workers must be a number"),
        ("workers: true\n", "workers must be a number"),
        ("bind: nowhere:1:2\n", "bind must be an address and a port"),
        ("bind: 127.0.0.1:99999\n", "bind must be an address and a port"),
        ("bind: foo\n", "bind must be an address and a port"),
        ("lease: 0s\n", "lease must be at least 1 s"),
        ("build-memory: lots\n", "build-memory is invalid"),
        ("ui-dir: here\n", "ui-dir must be an absolute path"),
        ("watch: [{path: /srv, recurse: true}]\n", "unknown key 'recurse'"),
        ("watch: [{namespace: x}]\n", "without 'path'"),
        ("tokens: [{token: short}]\n", "a token of 5 characters"),
        ("profiles: {gpu: {linux-46: {__cuda: 12}}}\n", "unknown platform 'linux-46'"),
        ("profiles: [gpu]\n", "profiles must be a mapping"),
        ("sandbox: maybe\n", "sandbox must be one of auto, required, off"),
        ("channels-allowed: {a: b}\n", "channels-allowed must be a list of texts"),
        ("url-prefix: /a?b\n", "url-prefix must be a path"),
        ("default-namespace: a/b\n", "default-namespace must be the name of a namespace"),
        ("tls-cert: /cert.pem\n", "tls-cert is set, but tls-key is not"),
        ("workers: [\n", "not valid YAML"),
        ("- a\n", "settings must be lines of the form"),
    ],
)
def test_a_wrong_value_is_an_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CetoolError, match=re.escape(message)):
        load_config(written(tmp_path, text), environ=environ(tmp_path))


def test_a_misspelled_variable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CetoolError) as caught:
        load_config(environ=environ(tmp_path, CETOOL_SERVER_WROKERS="2"))
    assert caught.value.code == "setting-unknown" and "CETOOL_SERVER_WORKERS" in (caught.value.hint or "")


def test_variables_that_kubernetes_sets_are_ignored(tmp_path: Path) -> None:
    names = ("PORT", "SERVICE_HOST", "SERVICE_PORT", "PORT_8484_TCP")
    load_config(environ=environ(tmp_path, **{f"CETOOL_SERVER_{name}": "tcp://10.0.0.1:8484" for name in names}))


def test_structures_are_json_in_variables(tmp_path: Path) -> None:
    variables = environ(tmp_path, CETOOL_SERVER_WATCH='[{"path": "/srv"}]', CETOOL_SERVER_CHANNELS_DEFAULT="a, b")
    config = load_config(environ=variables)
    assert config.watch[0].path == Path("/srv") and config.channels_default == ("a", "b")
    with pytest.raises(CetoolError, match="watch is not valid JSON"):
        load_config(environ=environ(tmp_path, CETOOL_SERVER_WATCH="[{"))


def test_a_missing_file_that_is_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CetoolError, match="does not exist"):
        load_config(tmp_path / "none.yaml", environ=environ(tmp_path))


def test_every_key_has_its_variable() -> None:
    assert variable_of("url-prefix") == "CETOOL_SERVER_URL_PREFIX"
