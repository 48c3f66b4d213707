"""Write the prefix into the files of an unpacked archive: this module's source becomes ``bin/conda-unpack``.

It runs with whatever Python the machine or the environment has, 3.6 or later, so it imports only the standard library,
and newer annotations are in quotes.
"""

import os
import re
import subprocess
import sys

#: Bytes of the first line that kernels read: Linux before 5.1, and others.
SHEBANG_LIMIT = 127
_SHEBANG = re.compile(rb"#!\s*((?:\\ |[^\s])+)([^\n\r]*)")


def with_prefix(data: bytes, placeholder: bytes, prefix: bytes, binary: bool) -> bytes:
    """Return a file's bytes with the prefix in place of the placeholder. Raises ValueError if it is too long."""
    if not binary:
        return with_short_shebang(data.replace(placeholder, prefix))
    if len(prefix) > len(placeholder):
        raise ValueError(f"the path is longer than {len(placeholder)} bytes")
    gap = len(placeholder) - len(prefix)

    def moved(match: "re.Match[bytes]") -> bytes:
        text = match.group()
        return text.replace(placeholder, prefix) + b"\0" * (gap * text.count(placeholder))

    # to the end of the string in C: what follows the prefix moves up, and zeros fill the rest
    return re.sub(re.escape(placeholder) + rb"[^\0]*", moved, data)


def with_short_shebang(data: bytes) -> bytes:
    """Return a script whose first line a kernel can run: a line that is too long starts its program in another way."""
    match = _SHEBANG.match(data)
    if match is None or (len(match.group()) <= SHEBANG_LIMIT and b"\\ " not in match.group(1)):
        return data
    program, rest = match.group(1).replace(b"\\ ", b" "), match.group(2)
    name = program.rsplit(b"/", 1)[-1]
    if name.startswith(b"python"):
        # a line that sh runs, and that is a string in Python
        line = b"#!/bin/sh\n'''exec' \"" + program + b'"' + rest + b" \"$0\" \"$@\"\n' '''"
    else:
        line = b"#!/usr/bin/env " + name + rest
    return line + data[match.end() :]


def relocate(prefix: str, files: "list[tuple[str, str, bool]]") -> "str | None":
    """Write the prefix into these files: triples of path, placeholder, and whether it is binary."""
    root = os.fsencode(prefix)
    for path, placeholder, binary in files:
        name = os.path.join(prefix, path)
        try:
            with open(name, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            continue  # the user removed it
        try:
            new = with_prefix(data, os.fsencode(placeholder), root, binary)
        except ValueError as error:
            return f"conda-unpack: {path} cannot be changed: {error}"
        if new != data:
            _replace(name, new)
    return None


def _replace(name: str, data: bytes) -> None:
    """Replace a file in one step, with the same mode."""
    temporary = name + ".unpack"
    with open(temporary, "wb") as file:
        file.write(data)
    os.chmod(temporary, os.stat(name).st_mode & 0o7777)
    if sys.platform == "darwin" and data[:4] in (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"):
        # arm64 runs only signed programs, and the change made the signature wrong
        subprocess.call(["/usr/bin/codesign", "-s", "-", "-f", temporary], stderr=subprocess.DEVNULL)
    os.replace(temporary, name)


def main(files: "list[tuple[str, str, bool]]") -> "str | None":
    """Relocate the environment that this script is in. Returns what ``sys.exit`` takes."""
    return relocate(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), files)
