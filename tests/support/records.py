"""A script whose runs are recorded, and the contents of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Prints its arguments and path.
SCRIPT = """\
# conda execute
# env: [python, six]
# variables: {ANSWER: forty-two}
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["ANSWER"], os.path.basename(__file__))
sys.exit(int(sys.argv[1]) if sys.argv[1:] else 0)
"""


def read_document(path: Path) -> dict[str, Any]:
    """Return the record in a file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document
