"""A target for atheris, whose cases are guided by what the readers do with them; not a part of the tests.

    python -m pip install atheris
    cd tests && python -m fuzz.guided corpus/ -max_len=4096 -timeout=10 -rss_limit_mb=3000 -max_total_time=600

``corpus/`` is a directory for what it finds worth keeping; where it is empty the valid blocks are put there first.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Instrument the readers, and hand over to atheris."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["cetool.spec", "ruamel.yaml", "tomli", "packaging"]):
        from fuzz import blocks

        for name in ("conda_execute", "pep723", "conda_script", "matchspecs", "dependencies", "pixi", "uv_settings"):
            importlib.import_module(f"cetool.spec.{name}")
    for corpus in [Path(word) for word in sys.argv[1:] if not word.startswith("-")][:1]:
        corpus.mkdir(exist_ok=True)
        for dialect, texts in blocks.BLOCKS.items():
            for number, text in enumerate(texts):
                (corpus / f"{dialect.replace(' ', '-')}-{number}").write_bytes(text)
    atheris.Setup(sys.argv, blocks.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
