"""A target for atheris, whose cases are guided by the coverage of the readers; not part of the tests.

    python -m pip install atheris
    cd tests && python -m fuzz.guided TARGET corpus/ -max_len=8192 -timeout=10 -rss_limit_mb=3000 -max_total_time=600

TARGET is a dialect or a reader, as for :mod:`fuzz.mutate`; ``corpus/`` a directory for the cases worth keeping, to
which the valid ones are added. ``nox -s fuzz`` runs all targets.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

_INSTRUMENTED = [
    "cetool.declare",
    "cetool.lock",
    "cetool.base.limits",
    "cetool.settings.file",
    "cetool.settings.condarc",
]
_INSTRUMENTED += ["cetool.provenance.record", "cetool.store.store", "ruamel.yaml", "tomli", "packaging", "json"]


def main() -> None:
    """Instrument the readers and start atheris."""
    atheris: Any = importlib.import_module("atheris")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=_INSTRUMENTED), tempfile.TemporaryDirectory(prefix="cetool-fuzz-") as place:
        from fuzz import blocks, mutate

        _, check = mutate.target(name, Path(place))  # reads the valid cases, which imports everything needed
        seeds = blocks.BLOCKS.get(name) or importlib.import_module("fuzz.readers").READERS[name].seeds
        for corpus in [Path(word) for word in sys.argv[1:] if not word.startswith("-")][:1]:
            corpus.mkdir(parents=True, exist_ok=True)
            for number, text in enumerate(seeds):
                (corpus / f"valid-{number}").write_bytes(text)

        def read(data: bytes) -> None:
            check(data, True)

        atheris.Setup(sys.argv, read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
