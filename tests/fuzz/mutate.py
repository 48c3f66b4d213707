"""Reads many mutations of one dialect's blocks: ``python -m fuzz.mutate DIALECT COUNT``, with ``tests`` on the path.

A process of its own, so that memory and processor time can be limited. hypothesis draws the cases, and makes one that
fails small before it is told. Prints how many there were, and how many of them were metadata.
"""

from __future__ import annotations

import random
import resource
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.blocks import BLOCKS, check, mutated

#: Bytes of address space: what Python, rattler's library and its threads take, and a margin.
MEMORY = 3 << 30
#: Seconds of processor time for the whole, and for each case on top.
SECONDS, SECONDS_EACH = 60, 0.05
#: So many cases are the same each time: what is new is looked for by runs of more.
FEW = 1000


def run(dialect: str, count: int) -> tuple[int, int]:
    """Read so many mutations; how many there were, and how many were metadata."""
    seen = [0, 0]
    mutations = st.randoms(use_true_random=False, note_method_calls=False)

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=count <= FEW,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.one_of(st.integers(0, 2**64).map(random.Random), mutations), st.booleans())
    def read(source: random.Random, python: bool) -> None:
        data = mutated(dialect, source)
        try:
            seen[1] += check(data, python=python)
        except BaseException:
            print(f"{dialect}: {data!r}", file=sys.stderr)
            raise
        seen[0] += 1

    for block in BLOCKS[dialect]:
        assert check(block), block
    read()
    return seen[0], seen[1]


def main() -> None:
    """Read the command line, set the limits, go."""
    dialect, count = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seconds = SECONDS + int(count * SECONDS_EACH)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    print(*run(dialect, count))


if __name__ == "__main__":
    main()
