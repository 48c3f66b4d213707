"""Promises about editing what a script declares: the change is exactly the intended one, and every other byte stays."""

from __future__ import annotations

import codecs
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.editing import ALL, CONDA_SCRIPT, EXECUTE, PEP723, PIXI, Write, reading
from support.home import Home
from support.scripts import bound_by_modes, told

from cetool.base.errors import CetoolError, MetadataError, UsageError
from cetool.declare.blocks import find_block
from cetool.declare.match_specs import spec_name
from cetool.edit.document import NotWrittenError, read_document, require_script, write_document
from cetool.edit.editing import BlockChange, edit_declaration


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return Write(tmp_path)


def changed(old: str, new: str) -> tuple[list[str], list[str]]:
    """The lines that went and the lines that came."""
    before, after = old.split("\n"), new.split("\n")
    return [line for line in before if line not in after], [line for line in after if line not in before]


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_each_dialect_takes_packages_requirements_and_channels(text: str, write: Write) -> None:
    before = reading(write(text))
    new = write.edited(
        text, packages=["zlib >=1.2,<2", "NumPy=1.26", "c::six"], pypi=["Rich[x]>=13", "requests==2"], channels=["c"]
    )
    after = reading(write(new))
    specs = {spec for spec in before.requirements.packages if spec_name(spec) != "numpy"}
    assert set(after.requirements.packages) == {*specs, "zlib >=1.2,<2", "numpy 1.26.*", "c::six"}
    assert set(after.requirements.pypi) == {"rich[x]>=13", "requests==2"}
    assert after.requirements.channels == ("conda-forge", "c")
    assert (after.run_with, after.entrypoint) == (before.run_with, before.entrypoint)
    assert after.requirements.variables == before.requirements.variables
    # what was added goes again, and with it nothing else
    dropped = reading(write(write.edited(new, drop=["zlib", "rich", "six", "numpy", "requests"])))
    assert set(dropped.requirements.packages) == specs and dropped.requirements.pypi == ()


@pytest.mark.parametrize(
    ("text", "change", "gone", "come"),
    [
        (EXECUTE, {"packages": ["numpy >=2"]}, "#  - numpy  ", "#  - numpy >=2  "),
        (EXECUTE, {"packages": ["zlib"]}, "", "#  - zlib"),
        (EXECUTE, {"packages": ["python 3.12.*"]}, "#  - python >=3   # why", "#  - python 3.12.*   # why"),
        (EXECUTE, {"pypi": ["rich[all]"]}, "", "#     - rich[all]"),
        (EXECUTE, {"drop": ["requests"]}, "#  - pip:\n#     - requests", ""),
        (EXECUTE, {"drop": ["numpy"]}, "#  - numpy  ", ""),
        (PEP723, {"packages": ["zlib"]}, "#   'scipy'", "#   'scipy',\n#   'zlib'"),
        (PEP723, {"packages": ["python >=3.11,<4"]}, '# requires-python = ">=3"', '# requires-python = ">=3.11,<4"'),
        (PEP723, {"drop": ["numpy"]}, '#   "numpy",  # fast', ""),
        (PIXI, {"packages": ["zlib"]}, "", '# zlib = "*"'),
        (CONDA_SCRIPT, {"packages": ["zlib=1.2"]}, "", '// zlib = "=1.2"'),
        (CONDA_SCRIPT, {"drop": ["numpy"]}, '// numpy = { version = "*" }  # fast', ""),
        (CONDA_SCRIPT, {"packages": ["c::zlib >=1"]}, "", '// zlib = { version = ">=1", channel = "c" }'),
    ],
)
def test_no_more_lines_change_than_must(
    text: str, change: dict[str, list[str]], gone: str, come: str, write: Write
) -> None:
    assert changed(text, write.edited(text, **change)) == (
        gone.split("\n") if gone else [],
        come.split("\n") if come else [],
    )


def test_a_list_in_brackets_keeps_its_form(write: Write) -> None:
    lines = "# conda execute\n# env: [\n#   python,   # p\n#   numpy,\n#   six  # s\n# ]\n"
    assert write.edited(lines, drop=["numpy"], packages=["zlib >=1,<2"]) == (
        "# conda execute\n# env: [\n#   python,   # p\n#   six,  # s\n#   'zlib >=1,<2'\n# ]\n"
    )
    assert write.edited(lines, drop=["six"]) == "# conda execute\n# env: [\n#   python,   # p\n#   numpy\n# ]\n"
    assert write.edited("# conda execute\n# {env: [a], run_with: x}", channels=["conda-forge"]) == (
        "# conda execute\n# {env: [a], run_with: x, channels: [conda-forge]}"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            '[tool]\ncetool = {  # TOML 1.1\n  env = ["six",],\n}',
            '[tool]\ncetool = {  # TOML 1.1\n  env = ["zlib",],\n}',
        ),
        ("tool . \"conda\".dependencies = [ 'six' ] # s", "tool . \"conda\".dependencies = [ 'zlib' ] # s"),
        (
            'tool.x.y = """\n[tool.conda]\n# no comment"""\n[tool.conda]\ndependencies = ["six"]\n\n# last\n[tool.y]',
            'tool.x.y = """\n[tool.conda]\n# no comment"""\n[tool.conda]\ndependencies = ["zlib"]\n\n# last\n[tool.y]',
        ),
        (
            "[tool.pixi.dependencies]\n  six = '*'\n\n# about y\n[tool.y]\n[tool.pixi.tasks]\nz = 1.50",
            '[tool.pixi.dependencies]\n  zlib = "*"\n\n# about y\n[tool.y]\n[tool.pixi.tasks]\nz = 1.50',
        ),
    ],
)
def test_toml_keeps_its_form(old: str, new: str, write: Write) -> None:
    before, after = ("".join(f"# {line}".rstrip() + "\n" for line in text.split("\n")) for text in (old, new))
    script = "# /// script\n{}# ///\n"
    edited = write.edited(script.format(before), packages=["zlib"])
    assert write.edited(edited, drop=["six"]) == script.format(after)


def test_what_is_there_already_changes_nothing(write: Write) -> None:
    for text in ALL.values():
        changes: list[dict[str, list[str]]] = [
            {"packages": ["numpy"]},
            {"pypi": ["requests"]},
            {"packages": ["numpy *"]},
            {"channels": []},
        ]
        for change in changes:
            assert write.edited(text, **change) == text
    # a bare name asks for no version: it takes none off
    assert "python >=3   #" in write.edited(EXECUTE, packages=["Python"])


def test_channels_follow_those_that_are_there(write: Write) -> None:
    text = "# conda execute\n# env: [a]\n# channels:\n#  - c1\n#  - c2 # second\n"
    assert write.edited(text, channels=["c3", "c1"]) == text + "#  - c3\n"
    # a script that names none means the default one: it must not lose it
    assert "# channels: [conda-forge, c1]\n" in write.edited("# conda execute\n# env: [a]\n", channels=["c1"])
    assert "# channels: [c1, conda-forge]\n" in write.edited(
        "# conda execute\n# env: [a]\n", channels=["c1", "conda-forge"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packages": ["numpy >="]}, "is not a match spec"),
        ({"packages": ["numpy # c"]}, "is not a match spec"),
        ({"packages": ["numpy\n# [tool.x]"]}, "is not a match spec"),
        ({"pypi": ["-r x.txt"]}, "option of pip"),
        ({"channels": ["https://u:hunter2@example.org/c"]}, "password"),
        ({"packages": ["https://u:hunter2@example.org/c::numpy"]}, "password"),
        ({"drop": ["nmpy"]}, "no package 'nmpy'"),
        ({"drop": ["numpy >=1"]}, "not a package name"),
    ],
)
def test_an_impossible_change_is_refused(change: dict[str, list[str]], message: str, write: Write) -> None:
    for text in ALL.values():
        with pytest.raises((MetadataError, UsageError), match=message) as caught:
            write.edited(text, **change)
        assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_nothing_is_left_without_an_environment(write: Write) -> None:
    with pytest.raises(UsageError, match="would declare no packages"):
        write.edited("# conda execute\n# env: [numpy]\n", drop=["numpy"])
    with pytest.raises(UsageError, match="declared separately for unix, at line 3"):
        platforms = "# /// script\n# [tool.pixi.target.unix.dependencies]\n# numpy = '1.*'\n# ///\n"
        write.edited(platforms, packages=["numpy >=2"])
    assert "numpy" not in write.edited(platforms, drop=["numpy"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_line_ends_and_marks_stay(end: str, mark: bytes, write: Write) -> None:
    for text in ALL.values():
        new = write.edited(mark + text.replace("\n", end).encode(), packages=["zlib"]).encode()
        assert new.startswith(mark) and new.removeprefix(mark).decode().replace(end, "\n") == write.edited(
            text, packages=["zlib"]
        )


def test_an_encoding_of_its_own_stays(write: Write) -> None:
    for codec in ("latin-1", "cp1252", "shift_jis", "iso2022_jp"):
        word = "é" if codec in ("latin-1", "cp1252") else "日本"
        text = f"# -*- coding: {codec} -*-\n# conda execute\n# env:  # {word}\n#  - six\nprint('{word}')\n"
        new = edit_declaration(write(text.encode(codec)), BlockChange(("zlib",))).document
        assert new.data == text.replace("- six\n", "- six\n#  - zlib\n").encode(codec)
    with pytest.raises(MetadataError, match="cannot change single lines of a file"):
        edit_declaration(
            write(b"# coding: utf-7\n# conda execute\n# env: [six]\nx = '+AAo-'\n"), BlockChange(("zlib",))
        )


# -- any script, any edit ---------------------------------------------------------------------------------------------

NAMES = ("alpha", "beta-2", "gamma_x", "delta.d", "h5py", "python")
VERSIONS = ("", " >=1", " >=1.5,<2", "=3.1", " 1.2.*", " ==1.0", " 2.0 py_0", "[build_number=3]", " >=1|<0.5", "!=2")
SPECS = st.builds(lambda name, version: name + version, st.sampled_from(NAMES), st.sampled_from(VERSIONS))
PYPI = st.builds(
    lambda name, rest: name + rest,
    st.sampled_from(("Req", "a.b", "x_y")),
    st.sampled_from(("", ">=1", "[e]==1.*", " ; python_version > '3'", " @ https://example.org/x-1.whl", "~=1.2")),
)
TEXT = st.text(st.sampled_from("ab #/'\"=[]-:é\t\\\u2028\x0c"), max_size=12)
LINES = st.lists(TEXT.filter(lambda line: "conda" not in line and "script" not in line), max_size=4)
ENDS = st.sampled_from(("\n", "\r\n", "\r"))


@st.composite
def blocks(draw: st.DrawFn) -> str:
    """Blocks of every dialect in every form, with comments where they may stand."""
    specs = draw(st.lists(SPECS, min_size=1, max_size=4, unique_by=spec_key))
    kind = draw(st.sampled_from(("block", "flow", "lines", "pep723", "pep723-lines", "conda-script")))
    note = draw(st.sampled_from(("", "  # a note, [with] 'marks'")))
    quote = draw(st.sampled_from(("'", '"')))
    quoted = [f"{quote}{spec}{quote}" for spec in specs]
    comma = draw(st.sampled_from(("", ",")))
    if kind == "block":
        dash = draw(st.sampled_from(("- ", "  -   ", "-    ")))
        lines = ["env:", *(f"{dash}{spec}{note}" for spec in quoted), "run_with: python"]
        lines.insert(draw(st.integers(1, len(lines))), "# hidden")
        return "\n".join(["# conda execute", *(f"#{line}" if line[0] == "#" else f"# {line}" for line in lines)])
    if kind == "flow":
        return f"# conda execute\n# env: [{', '.join(quoted)}{comma}]{note}\n# run_with: python"
    if kind == "lines":
        items = f",{note}\n#    ".join(quoted)
        return f"# conda execute\n# env: [\n#    {items}{comma}{note}\n#  ]\n# run_with: python"
    if kind == "pep723":
        head = "# /// script\n# dependencies = []\n# [tool.conda]"
        return f"{head}\n# dependencies = [{', '.join(quoted)}{comma}]{note}\n# ///"
    if kind == "pep723-lines":
        items = f",{note}\n#   ".join(quoted)
        head = f"# /// script\n# [tool.conda]{note}"
        return f"{head}\n# dependencies = [\n#   {items}{comma}{note}\n# ]\n# [tool.x]\n# y = 1\n# ///"
    entries = "\n".join(f"# {key(spec)} = '*'{note}" for spec in specs)
    return f"# /// conda-script\n# channels = ['conda-forge']\n# [dependencies]\n{entries}\n# /// end-conda-script"


def key(spec: str) -> str:
    return f"'{name}'" if "." in (name := spec_key(spec)) else name


def spec_key(spec: str) -> str:
    return next(name for name in NAMES if spec.startswith(name))


@settings(max_examples=150, deadline=None)
@given(
    before=LINES,
    block=blocks(),
    after=LINES,
    ends=st.lists(ENDS, min_size=1, max_size=3),
    last=st.booleans(),
    packages=st.lists(SPECS, max_size=3, unique_by=spec_key),
    pypi=st.lists(PYPI, max_size=2, unique_by=lambda text: text[:1]),
    drop=st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    channels=st.lists(st.sampled_from(("c1", "conda-forge", "https://example.org/c")), max_size=2, unique=True),
)
def test_bytes_outside_the_block_never_change(
    before: list[str],
    block: str,
    after: list[str],
    ends: list[str],
    last: bool,
    packages: list[str],
    pypi: list[str],
    drop: list[str],
    channels: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # not blank lines: a blank line that ends in \n, after a line that ends in \r, is no line but the rest of a \r\n
    lines = [*before, "x", *block.split("\n"), "x", *after]
    ended = [line + ends[index % len(ends)] for index, line in enumerate(lines)]
    text = "".join(ended) if last else "".join(ended)[: -len(ends[(len(lines) - 1) % len(ends)])]
    path = tmp_path_factory.getbasetemp() / f"h{os.getpid()}.py"
    path.write_bytes(text.encode())
    try:
        document = read_document(path)
        old = find_block(require_script(document))
        assert old is not None
        known = {spec_name(spec): spec for spec in reading(document).requirements.packages}
        implied = {"python"} if old.dialect == "script" and "python" not in block else set()
        new_names = set(map(spec_key, packages))
        drop = [name for name in drop if name in known.keys() - implied - new_names]
        change = BlockChange(tuple(packages), tuple(pypi), tuple(channels), tuple(drop))
        made = edit_declaration(document, change).document
    except UsageError as error:  # nothing would be left
        assert "would declare no packages" in error.message
        return
    finally:
        path.unlink()
    new = find_block(require_script(made))
    assert new is not None and new.first == old.first
    assert made.lines[: new.first] == document.lines[: old.first]
    closing = 0 if new.dialect == "conda execute" else 1
    tail = len(document.lines) - old.last + closing
    assert made.lines[len(made.lines) - tail :] == document.lines[len(document.lines) - tail :]
    after_needs = reading(made).requirements
    names = {spec_name(spec) for spec in after_needs.packages}
    always = {"python"} if new.dialect == "script" else set()
    assert names == (known.keys() - set(drop)) | new_names | always
    assert len(after_needs.pypi) == len(pypi)
    assert set(channels) <= set(after_needs.channels or ()) or not channels
    # a second time there is nothing to do
    path.write_bytes(made.data)
    try:
        again = edit_declaration(read_document(path), BlockChange(tuple(packages), tuple(pypi), tuple(channels)))
    finally:
        path.unlink()
    assert again.document.data == made.data


# -- files ------------------------------------------------------------------------------------------------------------


def test_mode_links_and_attributes_stay(write: Write) -> None:
    old = write(EXECUTE)
    old.path.chmod(0o4751)
    link = write.directory / "link.py"
    link.symlink_to(old.path.name)
    twin = write.directory / "twin.py"
    os.link(old.path, twin)
    document = read_document(link)
    warnings = write_document(document, edit_declaration(document, BlockChange(("zlib",))).document)
    assert "another name" in warnings[0]
    assert link.is_symlink() and b"zlib" in old.path.read_bytes() and b"zlib" not in twin.read_bytes()
    assert stat.S_IMODE(old.path.stat().st_mode) == 0o4751
    assert sorted(path.name for path in write.directory.iterdir()) == ["link.py", "s.py", "twin.py"]


def test_a_file_that_changed_meanwhile_is_left_alone(write: Write) -> None:
    old = write(EXECUTE)
    new = edit_declaration(old, BlockChange(("zlib",))).document
    old.path.write_text(EXECUTE + "# added\n")
    with pytest.raises(NotWrittenError, match="another process changed the script"):
        write_document(old, new)
    assert old.path.read_text() == EXECUTE + "# added\n"
    assert [path.name for path in write.directory.iterdir()] == ["s.py"]


def test_a_read_only_script_is_an_error(write: Write) -> None:
    old = write(EXECUTE)
    new = edit_declaration(old, BlockChange(("zlib",))).document
    old.path.chmod(0o444)
    with pytest.raises(NotWrittenError, match="read-only"):
        write_document(old, new)
    assert old.path.read_text() == EXECUTE


def test_the_commands_from_end_to_end(home: Home) -> None:
    script = home.write("s.py", "#!/usr/bin/env python\nimport six, nowhere\nprint(six.__name__)\n", executable=True)

    def cetool(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = home.cetool(*words)
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        return done

    assert "packages are unknown: nowhere" in cetool("init", "s.py").stderr
    script.write_text(script.read_text().replace(", nowhere", ""))
    assert home.cetool("run", "s.py").stdout == "six\n"
    cetool("add", "s.py", "python >=3", "numpy", "--channel", "conda-forge")
    cetool("drop", "s.py", "six")
    assert "numpy" in cetool("remove-dep", "s.py", "numpi", status=2).stderr
    cetool("remove-dep", "s.py", "numpy")
    cetool("add", "s.py", "--pypi", "six==1.16.0")
    name = home.cetool("name", "s.py").stdout
    for dialect in ("pep723", "conda-script", "conda-execute"):
        cetool("convert", "s.py", "--to", dialect)
        assert home.cetool("name", "s.py").stdout == name
    assert script.stat().st_mode & 0o777 == 0o755
    assert "- six==1.16.0" in script.read_text()
    assert "it is not a file" in told(cetool("add", "-", "six", status=2).stderr)[0]
    assert told(cetool("add", "six", "s.py", status=127).stderr)[1].startswith("Pass the script first")


def test_a_read_only_directory_is_an_error(home: Home) -> None:
    script = home.write("d/s.py", EXECUTE)
    script.parent.chmod(0o555)
    try:
        done = home.run(*bound_by_modes(), sys.executable, "-m", "cetool", "add", script, "zlib")
    finally:
        script.parent.chmod(0o755)
    assert done.returncode == 125
    assert "cannot write the script: Permission denied" in told(done.stderr)[0]
    assert script.read_text() == EXECUTE


@pytest.mark.parametrize(
    "lines",
    ["[[tool.cetool.env]]\npip = ['six']", "[tool]\npixi.dependencies = { six.version = '1.*', zlib = '*' }"],
)
def test_what_a_program_cannot_change_is_left_alone(lines: str, write: Write) -> None:
    text = "# /// script\n" + "".join(f"# {line}\n" for line in lines.split("\n")) + "# ///\n"
    for change in (BlockChange(drop=("six",)), BlockChange(("six >=1",), ("six==1",))):
        with pytest.raises(NotWrittenError, match="nothing was written"):
            edit_declaration(write(text), change)


def test_errors_are_cetools_own(write: Write) -> None:
    for text in ("", "print()\n", "# conda execute\n# env: {}\n", "# /// script\n# x = \n# ///\n"):
        with pytest.raises(CetoolError):
            write.edited(text, packages=["zlib"])
