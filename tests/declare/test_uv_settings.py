"""``[tool.uv]`` and pixi's PyPI tables: every key is honoured, refused with its line, or says nothing to a script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.home import Home
from support.pypi import wheel

from cetool.base.errors import MetadataError
from cetool.declare.dialects.pixi import PIXI_OPTIONS
from cetool.declare.dialects.uv import KEYS
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import read_metadata
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import Requirements
from cetool.declare.source import script_from_text

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "pypi.md"
HERE = Path("/where")


def read(text: str) -> Requirements:
    """The requirements of a PEP 723 script with these lines in its block, in /where."""
    block = "".join(f"# {line}\n" for line in text.strip().splitlines())
    script = script_from_text(f"# /// script\n{block}# ///\n", HERE / "s.py", "s.py")
    return read_metadata(script, "linux-64").requirements


def uv(text: str, dependencies: str = '"six"') -> Requirements:
    """The same of a block with these dependencies and ``[tool.uv]``."""
    return read(f"dependencies = [{dependencies}]\n[tool.uv]\n{text}")


def options(text: str) -> dict[str, object]:
    return uv(text).pypi_settings.named


# --- the table of keys ----------------------------------------------------------------------------------------------


def test_the_docs_list_every_key_as_the_code_treats_it() -> None:
    ours, _, pixis = DOCS.read_text(encoding="utf-8").partition("## `[tool.pixi]`")
    rows, pixi_rows = (
        dict(re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", text, re.MULTILINE)) for text in (ours, pixis)
    )
    wanted = {
        key: "honoured, uv only" if each.treatment == "honoured" and not each.pip else each.treatment
        for key, each in KEYS.items()
    }
    assert rows == wanted
    assert pixi_rows == PIXI_OPTIONS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sourcess = {}", "unknown key 'sourcess'"),
        *[
            (f"{key} = {value}", f"tool.uv.{key} is not supported")
            for key, value in {
                **dict.fromkeys((key for key, each in KEYS.items() if each.treatment == "refused"), "true"),
            }.items()
        ],
        ("prerelease = 'sometimes'", "cannot be 'sometimes'"),
        ("no-index = 1", "true or false"),
        ("no-build-package = ['a b']", "not a PyPI package name"),
        ("constraint-dependencies = ['a b']", "not a PyPI requirement"),
        ("exclude-newer-package = { six = 'tomorrow' }", "not a date"),
        ("extra-build-variables = { six = { 'A=B' = '1' } }", "environment variable"),
        ("dependency-metadata = [{ version = '1' }]", "no name"),
        ("index = [{ name = 'x' }]", "no url"),
        ("index = [{ url = 'https://x', explicit = true, default = true }]", "cannot be both"),
        ("index = [{ name = 'a', url = 'https://x' }, { name = 'a', url = 'https://y' }]", "two indexes"),
        ("index = [{ url = 'https://x', default = true }, { url = 'https://y', default = true }]", "two indexes"),
        ("index = [{ url = 'https://x', formats = 'flat' }]", "formats"),
        ("index = [{ url = 'https://x', format = 'round' }]", "cannot be 'round'"),
        ("sources = { six = { path = 'six', editable = true } }", "editable"),
        ("sources = { six = { workspace = true } }", "workspace"),
        ("sources = { six = { path = 'a', url = 'https://x/six.whl' } }", "has several sources"),
        ("sources = { six = {} }", "has no source"),
        ("sources = { six = [{ path = 'a' }, { path = 'b', marker = \"os_name == 'nt'\" }] }", "several sources"),
        ("sources = { six = { path = 'a', extra = 'cpu' } }", "no extras"),
        ("sources = { six = { path = 'a', group = 'dev' } }", "no groups"),
        ("sources = { six = { path = 'a', package = false } }", "'package = false' is not supported"),
        ("sources = { six = { git = 'https://x/y', lfs = true } }", "LFS"),
        ("sources = { six = { git = 'https://x/y', rev = 'a', tag = 'b' } }", "several revisions"),
        ("sources = { six = { git = 'git@x:y' } }", "not the URL of a repository"),
        ("sources = { six = { path = 'a', rev = 'b' } }", "'rev'"),
        ("sources = { six = { index = 'nowhere' } }", "no index"),
        ("sources = { six = { path = 'a', marker = 'whenever' } }", "not a marker"),
        ("sources = { idna = { path = 'idna' } }", "does not require idna"),
    ],
)
def test_a_refused_key_has_its_line(text: str, says: str) -> None:
    with pytest.raises(MetadataError, match=says) as refused:
        uv(text)
    assert refused.value.where is not None and refused.value.where.line in (3, 4)


def test_a_key_that_says_nothing_to_a_script_changes_nothing() -> None:
    plain = EnvironmentSpec.of(uv(""))
    for key, each in KEYS.items():
        if each.treatment == "irrelevant":
            assert EnvironmentSpec.of(uv(f"{key} = ['x']")) == plain, key


def test_every_honoured_setting_is_part_of_the_environments_name() -> None:
    texts = [
        "",
        *[f"{key} = true" for key in ("no-index", "no-build", "no-binary", "no-build-isolation")],
        *[f"{key} = ['six']" for key in ("no-build-package", "no-binary-package", "exclude-dependencies")],
        *[f"{key} = ['six<2']" for key in ("constraint-dependencies", "override-dependencies")],
        *["prerelease = 'allow'", "resolution = 'lowest'", "index-strategy = 'unsafe-best-match'"],
        *["exclude-newer-package = { six = '2024-01-01' }", "exclude-newer = '2024-01-01'", "torch-backend = 'cpu'"],
        *["config-settings = { a = 'b' }", "config-settings-package = { six = { a = ['b', 'c'] } }"],
        "dependency-metadata = [{ name = 'six', version = '1', requires-dist = ['idna'] }]",
        "extra-build-dependencies = { six = ['cython', { requirement = 'numpy', match-runtime = true }] }",
        *["extra-build-variables = { six = { CC = 'x' } }", "find-links = ['w']", "index = [{ url = 'w' }]"],
        *["index = [{ url = 'w', format = 'flat' }]", "index = [{ url = 'w', authenticate = 'always' }]"],
        *["sources = { six = { path = 'six' } }", "sources = { six = { git = 'https://x/six', tag = 'v1' } }"],
        "index = [{ name = 'x', url = 'w', explicit = true }]\nsources = { six = { index = 'x' } }",
        "required-version = '>=0.5'",
    ]
    specs = [EnvironmentSpec.of(uv(text)) for text in texts]
    assert len({spec.name for spec in specs}) == len(texts)
    for spec in specs:
        assert EnvironmentSpec.from_dict(spec.as_dict()) == spec
    assert len({Requirements.digest.fget(uv(text)) for text in texts}) == len(texts)  # type: ignore[attr-defined]
    named = options("index = [{ url = 'https://user:SECRET@x/simple', format = 'flat' }]")
    assert "SECRET" in str(named)
    stored = uv("index = [{ url = 'https://user:SECRET@x/simple', format = 'flat' }]").pypi_settings.as_dict()
    assert "SECRET" not in str(stored)


# --- sources ----------------------------------------------------------------------------------------------------------

MARKED = (
    "six = [{ path = 'a', marker = \"os_name == 'nt'\" }, { url = 'https://x/six.whl', marker = \"os_name == 'x'\" }]"
)


@pytest.mark.parametrize(
    ("sources", "dependencies", "found"),
    [
        ("six = { path = 'six' }", '"Six>=1"', ["six @ file:///where/six"]),
        ("six = { path = 'six' }", '"six[a,b]"', ["six[a,b] @ file:///where/six"]),
        ("SIX = { git = 'https://x/y', tag = 'v1' }", '"six"', ["six @ git+https://x/y@v1"]),
        (
            "six = { git = 'ssh://git@x/y', branch = 'main', subdirectory = 'a/b' }",
            '"six"',
            ["six @ git+ssh://git@x/y@main#subdirectory=a/b"],
        ),
        ("six = { git = 'https://x/y', rev = 'abc' }", '"six"', ["six @ git+https://x/y@abc"]),
        (
            "six = { url = 'https://x/six.zip', subdirectory = 'a' }",
            '"six"',
            ["six @ https://x/six.zip#subdirectory=a"],
        ),
        (
            "six = { path = 'six', marker = \"os_name == 'nt'\" }",
            "\"six>=1 ; python_version >= '3'\"",
            [
                'six @ file:///where/six ; python_version >= "3" and os_name == "nt"',
                'six>=1; python_version >= "3" and os_name != "nt"',
            ],
        ),
        (
            MARKED,
            '"six"',
            [
                'six @ file:///where/a ; os_name == "nt"',
                'six @ https://x/six.whl ; os_name == "x"',
                'six; os_name != "nt" and os_name != "x"',
            ],
        ),
    ],
)
def test_sources_become_direct_references(sources: str, dependencies: str, found: list[str]) -> None:
    assert [re.sub(r"[()]", "", text) for text in uv(f"sources.{sources}", dependencies).pypi] == found


def test_sources_hold_for_constraints_overrides_overlays_and_cetools_own_entries() -> None:
    needs = uv(
        "sources = { six = { path = 'six' } }\noverride-dependencies = ['six']\n"
        "[tool.cetool]\nenv = [{ pip = ['six'] }]",
        "",
    )
    assert needs.pypi == ("six @ file:///where/six",)
    assert needs.pypi_settings.named["override-dependencies"] == ["six @ file:///where/six"]
    laid = uv("sources = { six = { path = 'six' } }\n[tool.cetool]\nbase = '/base'\noverlay = ['six', '-e ./x']", "")
    assert laid.overlay is not None and laid.overlay.entries == ("six @ file:///where/six", "-e /where/x")
    assert uv("no-sources = true\nsources = { six = { path = 'six' } }").pypi == ("six",)
    assert uv("no-sources-package = ['six']\nsources = { six = { path = 'six' } }").pypi == ("six",)


def test_a_requirement_with_a_url_takes_no_source() -> None:
    with pytest.raises(MetadataError, match="has two sources"):
        uv("sources = { six = { path = 'six' } }", '"six @ https://x/six.whl"')


# --- pixi -----------------------------------------------------------------------------------------------------------


def test_pixis_pypi_options_are_settings_like_uvs() -> None:
    needs = read(
        "[tool.pixi.pypi-dependencies]\nsix = { version = '>=1', index = 'https://i/simple' }\n"
        "idna = { path = 'idna' }\n"
        "[tool.pixi.pypi-options]\nindex-url = 'https://a/simple'\nextra-index-urls = ['https://b']\n"
        "find-links = [{ path = 'w' }, { url = 'https://c' }]\nno-build = ['six']\nno-binary = true\n"
        "no-build-isolation = false\nindex-strategy = 'first-index'\nprerelease-mode = 'allow'\n"
        "dependency-overrides = { numpy = '<2' }\n"
    )
    settings = needs.pypi_settings
    assert needs.pypi == ("six>=1", "idna @ file:///where/idna")
    assert settings.index_url == "https://a/simple" and settings.extra_index_urls == ("https://b",)
    assert settings.find_links == ("file:///where/w", "https://c")
    named = settings.named
    assert named["no-build-package"] == ["six"] and named["no-binary"] is True and named["prerelease"] == "allow"
    assert named["override-dependencies"] == ["numpy<2"]
    assert named["sources"]["six"][0]["index"] == named["index"][0]["name"] and named["index"][0]["explicit"]
    with pytest.raises(MetadataError, match="skip-wheel-filename-check"):
        read("[tool.pixi.pypi-options]\nskip-wheel-filename-check = true")


def test_settings_are_joined() -> None:
    one = PypiSettings("a", ("b",)).with_options(no_index=True, find=["x"])
    other = PypiSettings(None, ("c",)).with_options(find=["x", "y"], prerelease="allow")
    joined = one.plus(other)
    assert (joined.index_url, joined.extra_index_urls) == ("a", ("b", "c"))
    assert joined.named == {"no-index": True, "find": ["x", "y"], "prerelease": "allow"}


# --- for real -------------------------------------------------------------------------------------------------------

BACKEND = """\
import os, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "six-99-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        archive.writestr("six.py", "__version__ = '%s'\\n" % open("version.txt").read())
        archive.writestr("six-99.dist-info/METADATA", "Metadata-Version: 2.1\\nName: six\\nVersion: 99\\n")
        archive.writestr("six-99.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("six-99.dist-info/RECORD", "")
    return name
"""


def directory_six(place: Path) -> None:
    """A directory with a package six of our own, whose version is what version.txt says."""
    place.mkdir(parents=True)
    (place / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "six"\nversion = "99"\n'
    )
    (place / "backend.py").write_text(BACKEND)
    (place / "version.txt").write_text("ours")


def test_a_directory_is_the_source_whatever_is_done_with_the_script(home: Home) -> None:
    script = home.write(
        "s.py",
        '# /// script\n# dependencies = ["six"]\n# [tool.uv.sources]\n# six = { path = "six" }\n# ///\n'
        "import six; print(six.__version__)\n",
    )
    directory_six(home.path / "six")
    for options in ((), (), ("-q",)):
        done = home.cetool("run", *options, script)
        assert (done.returncode, done.stdout) == (0, "ours\n"), done.stderr
    refused = home.cetool("lock", script)
    assert refused.returncode == 125 and "it is a directory, whose content may change" in refused.stderr
    assert not list(home.path.glob("s.py.*"))
    elsewhere = home.write("t.py", script.read_text().replace('"six" }', '"six", marker = "os_name == \'nt\'" }'))
    assert home.cetool("lock", elsewhere).returncode == 0, "the directory is for another system"
    exported = home.cetool("export", "--format", "requirements", script)
    assert f"six @ {(home.path / 'six').as_uri()}" in exported.stdout
    assert "metadata" not in home.cetool("check", script).stdout
    assert home.cetool("add", "--pypi", script, "six>=1").returncode == 0
    assert home.cetool("run", script).stdout == "ours\n"
    assert home.cetool("convert", "--to", "conda-execute", script).returncode == 0
    assert home.cetool("run", script).stdout == "ours\n"
    (home.path / "six" / "version.txt").write_text("changed")
    again = home.cetool("run", "--refresh", script)
    assert again.stdout == "changed\n", again.stderr


def test_uv_gets_indexes_constraints_and_overrides_and_pip_says_that_it_cannot(settled: Home) -> None:
    place = settled.path / "uv-settings"
    for version in ("1.0", "2.0", "3.0"):
        wheel(place / "flat", "ours", version)
    wheel(place / "flat", "theirs", "1.0", "ours >=3")
    wheel(place / "links", "ours", "9.0")
    script = settled.write(
        "uv-settings/s.py",
        '# /// script\n# dependencies = ["ours", "theirs"]\n# [tool.uv]\n# no-index = false\n'
        '# find-links = ["links"]\n# constraint-dependencies = ["ours <2.5"]\n# override-dependencies = ["ours >1"]\n'
        '# [[tool.uv.index]]\n# name = "flat"\n# url = "flat"\n# format = "flat"\n'
        '# [tool.uv.sources]\n# ours = { index = "flat" }\n# theirs = { index = "flat" }\n# ///\n'
        "import ours; print(ours.version)\n",
    )
    done = settled.cetool("run", script)
    assert done.stdout == "2.0\n", done.stderr
    assert 'constraint-dependencies = ["ours<2.5"]' in settled.cetool("show", script).stdout
    assert settled.cetool("lock", script).returncode == 0
    locked = settled.cetool("run", "--locked", script)
    assert locked.stdout == "2.0\n", locked.stderr
    elsewhere = script.with_name("unlocked.py")
    elsewhere.write_text(script.read_text())
    for command in (("run", "--refresh"), ("lock",)):
        refused = settled.cetool(*command, elsewhere, env={"CETOOL_PIP_INSTALLER": "pip"})
        assert refused.returncode == 125 and "requires uv, but pip is used" in refused.stderr, refused.stderr
        assert "cetool[uv]" in refused.stderr
    assert "Created" not in refused.stderr


@pytest.mark.parametrize("variable", ["UV_CONFIG_FILE", "UV_NO_CONFIG"])
def test_the_users_own_uv_configuration_does_not_switch_a_scripts_settings_off(settled: Home, variable: str) -> None:
    place = settled.path / f"config-{variable}"
    wheel(place / "w", "ours", "1.0")
    wheel(place / "w", "ours", "2.0")
    config = settled.write(f"config-{variable}/uv.toml", 'prerelease = "allow"\n')
    script = settled.write(
        f"config-{variable}/s.py",
        '# /// script\n# dependencies = ["ours"]\n# [tool.uv]\n# no-index = true\n# find-links = ["w"]\n'
        '# resolution = "lowest"\n# ///\nimport ours; print(ours.version)\n',
    )
    value = str(config) if variable == "UV_CONFIG_FILE" else "1"
    done = settled.cetool("run", "--refresh", script, env={variable: value})
    assert done.stdout == "1.0\n", done.stderr


def test_a_uv_that_does_not_know_a_setting_installs_nothing(settled: Home) -> None:
    old = settled.write(
        "old-uv/uv",
        '#!/bin/sh\ncase "$*" in cache*) echo \'warning: Failed to parse `pyproject.toml` during settings '
        "discovery: unknown field `resolution`' >&2;; *) exit 0;; esac\n",
        executable=True,
    )
    script = settled.write(
        "old-uv/s.py",
        '# /// script\n# dependencies = ["ours"]\n# [tool.uv]\n# resolution = "lowest"\n# ///\nprint("ran")\n',
    )
    done = settled.cetool("run", script, env={"UV": str(old)})
    assert done.returncode == 125 and "does not support the setting 'resolution'" in done.stderr, done.stderr
