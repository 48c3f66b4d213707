"""The scripts of an archive: ``bin/activate``, ``bin/deactivate`` and ``bin/conda-unpack``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from cetool.server.archive import unpack

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

#: Starts the first Python that works: the environment's, else the machine's. Python skips it as a string.
_START = """\
#!/bin/sh
''':'
here=$(dirname -- "$0")
for python in "$here/python" python3 python; do
    if "$python" -c '' 2>/dev/null; then exec "$python" -E -s "$0" "$@"; fi
done
echo "conda-unpack: no Python found" >&2
exit 1
'''
"""

_ACTIVATE = """\
# Activates this environment: . bin/activate
if [ -n "${BASH_SOURCE:-}" ]; then _cetool_file=${BASH_SOURCE}
elif [ -n "${ZSH_VERSION:-}" ]; then eval '_cetool_file=${(%):-%x}'
else _cetool_file="${1:-.}/bin/activate"; fi
_cetool_prefix=$(CDPATH= cd -- "$(dirname -- "$_cetool_file")/.." && pwd -P) || return 1
if [ -n "${CETOOL_OLD_PATH:-}" ]; then . "$CONDA_PREFIX/bin/deactivate"; fi
export CETOOL_OLD_PATH="${PATH:-}"
export PATH="$_cetool_prefix/bin${PATH:+:$PATH}"
export CONDA_PREFIX="$_cetool_prefix"
export CONDA_DEFAULT_ENV="$_cetool_prefix"
export CONDA_SHLVL=1
unset _cetool_file _cetool_prefix
if [ -d "$CONDA_PREFIX/etc/conda/activate.d" ]; then
    for _cetool_script in $(command ls "$CONDA_PREFIX/etc/conda/activate.d" | command grep '[.]sh$'); do
        . "$CONDA_PREFIX/etc/conda/activate.d/$_cetool_script"
    done
    unset _cetool_script
fi
"""

_DEACTIVATE = """\
# Deactivates this environment: . "$CONDA_PREFIX/bin/deactivate"
if [ -n "${CETOOL_OLD_PATH:-}" ]; then
    if [ -d "$CONDA_PREFIX/etc/conda/deactivate.d" ]; then
        for _cetool_script in $(command ls "$CONDA_PREFIX/etc/conda/deactivate.d" | command grep '[.]sh$'); do
            . "$CONDA_PREFIX/etc/conda/deactivate.d/$_cetool_script"
        done
        unset _cetool_script
    fi
    export PATH="$CETOOL_OLD_PATH"
    unset CETOOL_OLD_PATH CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL
"""


def activate(variables: Mapping[str, str]) -> str:
    """Return ``bin/activate``, to be sourced by bash, zsh and other shells of POSIX, with these variables."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()) if _NAME.match(name)]
    return _ACTIVATE + "".join(lines)


def deactivate(variables: Mapping[str, str]) -> str:
    """Return ``bin/deactivate``, which undoes what :func:`activate` does."""
    names = [name for name in sorted(variables) if _NAME.match(name)]
    return _DEACTIVATE + (f"    unset {' '.join(names)}\n" if names else "") + "fi\n"


def conda_unpack(files: Sequence[tuple[str, str, bool]]) -> str:
    """Return ``bin/conda-unpack``, which writes the prefix into these files (see :func:`unpack.relocate`)."""
    code = Path(unpack.__file__).read_text(encoding="utf-8")
    rows = ["import json\n", f"FILES = json.loads({json.dumps(json.dumps(files))})\n", "sys.exit(main(FILES))\n"]
    return _START + code + "\n\n" + "".join(rows)
