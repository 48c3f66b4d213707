"""What scripts and command lines may say of overlays, and the value that it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cetool.base.errors import CetoolError, MetadataError, StoreError
from cetool.declare.environment import EnvironmentSpec, Overlay
from cetool.declare.metadata import read_metadata
from cetool.declare.overlay import canonical_entry, is_direct, local_path
from cetool.declare.requirements import OverlayKeys
from cetool.declare.source import script_from_text
from cetool.overlays.about import About, Layer, write_about
from cetool.overlays.base import Fingerprint, changes_between
from cetool.overlays.recipe import Recipe, freeze_text, merged_entries, recipe_text, state_of, without_entries

PEP723 = (
    '# /// script\n# dependencies = ["idna"]\n# [tool.cetool]\n# base = "/opt/b"\n# overlay = ["six ==1.16"]\n# ///\n'
)


def overlay_of(text: str) -> OverlayKeys | None:
    return read_metadata(script_from_text(text, Path("/srv/scripts/a.py"), "a.py")).requirements.overlay


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("NumPy == 2.4.1", "numpy==2.4.1"),
        ("a[b] >1; python_version > '3'", 'a[b]>1; python_version > "3"'),
        ("./x-1-py3-none-any.whl", "/b/x-1-py3-none-any.whl"),
        ("x-1-py3-none-any.whl", "/b/x-1-py3-none-any.whl"),
        ("../dir[extra, more]", "/dir[extra,more]"),
        ("-e .", "-e /b"),
        ("-e./x", "-e /b/x"),
        ("--editable=./x", "-e /b/x"),
        ("git+https://host/a@v1", "git+https://host/a@v1"),
        ("https://host/x.whl", "https://host/x.whl"),
        ("file:///a%20b/x.whl", "/a b/x.whl"),
        ("x @ ./here", "x @ file:///b/here"),
    ],
)
def test_entries_have_one_form(given: str, canonical: str) -> None:
    assert canonical_entry(given, base_dir="/b") == canonical
    assert canonical_entry(canonical, base_dir="/elsewhere") == canonical


@pytest.mark.parametrize("evil", ["-r x", "--index-url=http://evil", "-e git+https://h/r", "", "a\nb", "not a package"])
def test_an_invalid_entry_is_refused(evil: str) -> None:
    with pytest.raises(MetadataError):
        canonical_entry(evil)


def test_where_an_entry_leads() -> None:
    assert local_path("-e /b[x]") == Path("/b") and local_path("x @ file:///b%20c ; python_version>'3'") == Path("/b c")
    assert local_path("numpy==2") is None and local_path("git+https://h/r") is None
    assert is_direct("git+https://h/r") and is_direct("x @ https://h/x.whl") and not is_direct("numpy==2")


def test_the_dialects_say_it_alike() -> None:
    assert overlay_of("# conda execute\n# base: ../envs/x\n# overlay: [-e ../a]\n# conda: [hello]\n") == OverlayKeys(
        "/srv/envs/x", ("-e /srv/a",), ("hello",)
    )
    assert overlay_of("# conda execute\n# base: beamline\n") == OverlayKeys("beamline")
    assert overlay_of(PEP723) == OverlayKeys("/opt/b", ("six==1.16",))
    assert overlay_of("# conda execute\n# env: [a]\n") is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# conda execute\n# overlay: [six]\n", 2, "'overlay' needs a base, but there is no 'base'"),
        ("# conda execute\n# base: /b\n# env: [numpy]\n", 2, "these cannot be added to it: numpy"),
        ("# conda execute\n# base: /b\n# overlay: six\n", 3, "overlay must be a list"),
        ("# conda execute\n# base: [/b]\n", 2, "base must be a string"),
        ("# conda execute\n# base: /b\n# overlay:\n#   - -r x\n", 4, "an option of pip"),
        ("# conda execute\n# base: /b\n# conda: [-n x]\n", 3, "match spec"),
    ],
)
def test_an_overlay_error_has_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(MetadataError) as caught:
        overlay_of(text)
    assert caught.value.where is not None and caught.value.where.line == line
    assert words in caught.value.message


def test_the_digest_covers_base_entries_and_states_but_no_password() -> None:
    def digest(**changes: object) -> str:
        values: dict[str, object] = {"base": "/b", "requirements": ("git+https://u:p@h/r",), "states": (("x", "1"),)}
        return EnvironmentSpec(Overlay(**{**values, **changes}), ()).digest  # type: ignore[arg-type]

    assert digest() == digest(requirements=("git+https://h/r",))
    assert len({digest(), digest(base="/c"), digest(requirements=()), digest(conda=("a",)), digest(states=())}) == 5
    spec = EnvironmentSpec(Overlay("/b", ("a",), ("c",), ("python >=3",), (("a", "1"),)), ())
    assert EnvironmentSpec.from_dict(spec.as_dict()) == spec


def test_changes_in_a_base_are_reported_by_package() -> None:
    before = Fingerprint(
        ("a-1.0-0", "b-1.0-0", "c-1.0-0", "n-1.0-py_0"),
        ("n-1.0.dist-info", "Pip_Only-1.dist-info", "e-1-py3.9.egg-info"),
    )
    after = Fingerprint(("a-2.0-0", "b-1.0-1", "d-1.0-0", "n-1.0-py_0"), ("n-2.0.dist-info", "e-1-py3.9.egg-info"))
    told = ["a 1.0 -> 2.0", "b 1.0 0 -> 1.0 1", "c 1.0 removed", "d 1.0 added", "n 1.0 -> 2.0", "pip-only 1 removed"]
    assert changes_between(before, after) == told
    assert changes_between(after, after) == []


def test_states_follow_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "a.py").write_text("1")
    plain, editable = state_of(str(tmp_path)), state_of(f"-e {tmp_path}")
    (tmp_path / "a.py").write_text("22")
    (tmp_path / "__pycache__").mkdir()
    assert state_of(str(tmp_path)) != plain and state_of(f"-e {tmp_path}") == editable
    assert state_of("numpy==2") is None
    with pytest.raises(StoreError, match="no such file"):
        state_of(str(tmp_path / "gone.whl"))
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(StoreError, match="is not a Python project"):
        state_of(str(tmp_path))


def test_recipes_are_changed_by_name_and_read_again() -> None:
    recipe = merged_entries(Recipe("r", "/b", ("numpy==1", "-e /x")), ["NumPy==2".lower(), "six"], ["hello >=1"])
    assert recipe.overlay == ("numpy==2", "-e /x", "six") and recipe.conda == ("hello >=1",)
    assert without_entries(recipe, ["NUMPY", "-e /x", "hello"]) == Recipe("r", "/b", ("six",))
    with pytest.raises(CetoolError, match="does not contain 'nothing'"):
        without_entries(recipe, ["nothing"])
    block = "".join(f"# {line}\n" for line in recipe_text("", "/b", recipe.overlay, recipe.conda, ()).splitlines())
    assert overlay_of(f"# conda execute\n{block}") == OverlayKeys("/b", recipe.overlay, recipe.conda)


def test_base_and_overlay_are_frozen_into_one(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    site = "lib/python3.12/site-packages"

    def package(prefix: Path, name: str, version: str, *depends: str, conda: bool = True) -> None:
        info = prefix / site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (prefix / "conda-meta").mkdir(exist_ok=True)
        files = [f"{site}/{info.name}/METADATA"]
        record = {"name": name, "version": version, "build": "0", "channel": "https://u:secret@c", "depends": depends}
        if conda:
            (prefix / f"conda-meta/{name}-{version}-0.json").write_text(json.dumps({**record, "files": files}))

    package(base, "needed", "1.0")
    package(base, "needs", "1.0", "needed >=1")
    package(base, "alone", "1.0")
    package(base, "by-pip", "1.0", conda=False)
    (overlay / "conda-meta").mkdir(parents=True)
    over = [Layer("needed", "2.0", "pypi", "1.0"), Layer("alone", "2.0", "pypi", "1.0")]
    over.append(Layer("own", "1.0", "pypi", source="-e file:///x"))
    write_about(overlay, About(str(base), "3.12.1", Fingerprint((), ()), tuple(over)))
    text = freeze_text("next", base, overlay)
    assert text == (
        "name: next\nchannels:\n  - https://c\ndependencies:\n  - needed==2.0\n  - needs==1.0\n"
        "  - pip:\n      - alone==2.0\n      - by-pip==1.0\n      - own @ file:///x\n"
    )
