"""Ask conda's own ``MatchSpec`` which records a spec matches: a script, since cetool does not depend on conda.

Reads ``{"specs": [...], "records": [...]}`` from standard input and prints, for each spec, the indices of the matching
records, or null if conda refuses the spec.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any


def main() -> None:
    """Answer on standard output."""
    from conda.models.match_spec import MatchSpec  # type: ignore[import-not-found, unused-ignore]
    from conda.models.records import PackageRecord  # type: ignore[import-not-found, unused-ignore]

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    records = [PackageRecord(**record) for record in asked["records"]]
    found: list[Any] = []
    for text in asked["specs"]:
        try:
            spec = MatchSpec(text)
            found.append([number for number, record in enumerate(records) if spec.match(record)])
        except Exception:  # conda refuses specs with several exceptions, including AssertionError
            found.append(None)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
