"""Valid blocks of each dialect, pieces that break them, and the check of what the readers return."""

from __future__ import annotations

import random
from pathlib import Path

from cetool.base.errors import CetoolError
from cetool.base.urls import strip_credentials
from cetool.base.values import strings_in
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import read_metadata
from cetool.declare.source import Script, decode

#: The directory of the scripts, which is not accessed.
DIRECTORY = Path("/nowhere/scripts")

BLOCKS: dict[str, tuple[bytes, ...]] = {
    "conda execute": (
        b"#!/usr/bin/env python\n# conda execute\n# env:\n#  - python >=3\n#  - numpy 1.26.* py311*\nprint()\n",
        b"// conda execute\n// env: [gcc, 'conda-forge::zlib >=1.2,<2', {pip: [six >=1, 'b @ https://h/b.whl']}]\n"
        b"// channels: [conda-forge, ./here, https://host/x]\n// variables: {A: 1.10, B: yes}\n"
        b"// run_with: [nice, -n, 5]\n",
        b'## conda execute\n#\n# conda execute:\n# env:\n#   - \'r-base[version=">=4",build="h*"]\'\n'
        b"## note\n# run_with: R\n",
    ),
    "script": (
        b'# /// script\n# requires-python = ">=3.11"\n# dependencies = ["six>=1", "b[x] ; python_version > \'3\'"]\n'
        b'#\n# [tool.conda]\n# dependencies = ["numpy"]\n# channels = ["conda-forge"]\n# ///\n',
        b'# /// script\n# [tool.pixi.dependencies]\n# gdal = { version = "3.*", build = "py*", channel = "x" }\n'
        b"# [tool.pixi.target.linux-64.dependencies]\n# b = '*'\n# [tool.uv]\n# exclude-newer = '2025-01-01'\n"
        b"# [[tool.uv.index]]\n# name = 'a'\n# url = 'https://host/simple'\n# ///\n",
        b"# /// script\n# [tool.cetool]\n# env = ['a 1.*', 'b']\n# variables = { A = '1' }\n# ///\n",
    ),
    "conda-script": (
        b'# /// conda-script\n# channels = ["conda-forge"]\n# [dependencies]\n# python = { version = ">=3" }\n'
        b'# numpy = "*"\n# /// end-conda-script\n',
        b'// /// conda-script\n// channels = ["conda-forge"]\n// entrypoint = { unix = "cc ${SCRIPT}" }\n//\n'
        b'// [dependencies]\n// zlib = {\n//   version = ">=1.2",\n//   when = "__unix",\n// }\n'
        b"// gcc = { url = 'https://h/gcc-1-0.conda', sha256 = '" + b"0" * 64 + b"' }\n// /// end-conda-script\n",
        b"-- /// conda-script\n-- channels = ['a']\n-- entrypoint = 'lua ${SCRIPT} && echo ${ENV:HOME}'\n"
        b"-- [dependencies]\n-- lua = { extras = ['x'], flags = ['f'], subdir = 'linux-64' }\n"
        b"-- /// end-conda-script\n",
    ),
}
PIECES: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in b"#\n\r\t\0\x07[]{}()'\":=,|><-~@&*!?%;.\\/ $`_0aZ\x80\xff"),
    *(
        b"\xe2\x80\xa8",
        b"\xed\xb3\xbf",
        b"\xef\xbb\xbf",
        b"\xc3\xbc",
        b"\xf0\x9f\x90\x8d",
        b"# -*- coding: utf-7 -*-\n",
    ),
    *(b"# ", b"// ", b"---\n", b"...\n", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"? ", b"# ///\n"),
    *(b"# conda execute\n", b"# /// script\n", b"# /// conda-script\n", b"1e999", b"0x" + b"f" * 5000, b"9" * 5000),
    *(b"[" * 500, b"{a: " * 100, b"a." * 1000, b"'''", b'"""', b"\\u0000", b"\\U0010ffff", b"../" * 20, b"${X}", b"::"),
    *(b" when=(__unix and ", b"; python_version>", b"[version='", b"1.*|", b",>=", b"==", b"~=", b"file://", b"git+"),
    *(mark * 200 for mark in (b";", b"#", b"/", b"-", b"'", b"%", b"!", b" ", b"\t")),
    *(b"-r x", b"--index-url=x", b"$(touch x)", b"nan", b"null", b"2025-01-01T00:00:00Z", b"= {", b"\n[tool.pixi]\n"),
)


def check(data: bytes, *, python: bool = True) -> bool:
    """Read these bytes as a script: the result must be metadata for an environment, or a proper error.

    Returns True for metadata. Any other exception is a bug.
    """
    try:
        script = Script(DIRECTORY / "script.py", "script.py", decode(data, "script.py", python=python))
        found = read_metadata(script)
        spec = EnvironmentSpec.of(found.requirements)
    except CetoolError as error:
        assert error.message.strip() and "Traceback" not in error.message, error.message[:1000]
        assert len(error.message) < 3000, error.message[:1000]
        assert error.exit_status == 125
        return False
    assert EnvironmentSpec.of(found.requirements).name == spec.name
    # credentials are not stored, so only a specification without them is the same after reading
    assert EnvironmentSpec.from_dict(spec.as_dict()) == spec or any(
        strip_credentials(text) != text for text in strings_in(spec)
    )
    assert (found.run_with is None) != (found.entrypoint is None)
    for text in (*spec.packages, *spec.pypi, *spec.channels):
        assert text and not text.startswith("-") and not any(ord(char) < 32 for char in text), text[:1000]
    return True


def mutated(dialect: str, source: random.Random) -> bytes:
    """Return a block of the dialect with pieces removed, added, repeated and exchanged; sometimes random bytes."""
    if source.random() < 0.05:
        return source.randbytes(source.randrange(1, 300))
    data = source.choice(BLOCKS[dialect])
    for _ in range(source.choice((0, 1, 1, 2, 3, 5, 8))):
        start = source.randrange(len(data) + 1)
        end = min(len(data), start + source.choice((0, 0, 0, 1, 1, 2, 4, 12, 40)))
        kind = source.random()
        if kind < 0.6:
            piece = source.choice(PIECES)
        elif kind < 0.7:
            piece = source.randbytes(source.randrange(1, 4))
        elif kind < 0.8:
            piece = data[start:end] * source.choice((2, 3, 50))
        else:
            other = source.choice(BLOCKS[source.choice(tuple(BLOCKS))])
            begin = source.randrange(len(other))
            piece = other[begin : begin + source.choice((1, 5, 20, 80))]
        data = data[:start] + piece + data[end:]
    return data
