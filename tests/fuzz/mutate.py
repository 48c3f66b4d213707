"""Read many mutations of one dialect's blocks, or of one reader's files: ``python -m fuzz.mutate NAME COUNT``.

``tests`` has to be on the path. This is a process of its own, so that memory and processor time can be limited.
hypothesis draws the cases, and makes one that fails small before it is shown. Prints how many there were, and how many
of them were read.
"""

from __future__ import annotations

import copy
import json
import random
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.blocks import BLOCKS, PIECES, mutated
from fuzz.blocks import check as check_block

#: Bytes of address space: those of Python, rattler's library and its threads, and a margin.
MEMORY = 3 << 30
#: MiB that the process may use, of which the libraries use 100.
MOST_MIB = 400
#: Seconds of CPU time: a base for the whole, an addition for each case, and the maximum for one case.
SECONDS, SECONDS_EACH, SECONDS_ONE = 60, 0.05, 1.0
#: The first cases are the same in each run; runs with more cases look for something new.
FEW = 1000

_DEEP: Any = "x"
for _ in range(100):
    _DEEP = [_DEEP]
#: Values of other types, sizes and alphabets.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**63, 10**400, -(10**25), 1e308, float("inf"), float("nan")),
    *(
        "",
        " ",
        "\0",
        "\n",
        "\x1b[2J",
        "\ud800",
        "\udc80",
        "\u2028",
        "\ufeff",
        "~",
        "..",
        "../../x",
        "/",
        "$HOME",
        "1e999",
    ),
    *(
        "9" * 5000,
        "a" * 10_000,
        "." * 500,
        "1." * 300 + "1",
        "é" * 100,
        "https://u:p@h/x",
        "file:///etc",
        "-x",
        "#",
        "==",
    ),
    *([], {}, [[]], [1], ["a", 1], [None], {"a": 1}, {"": ""}, {"\ud800": 1}, _DEEP, [{}], [[["a"]]]),
)
#: The same values as pieces of text.
TOKENS: tuple[bytes, ...] = (
    *PIECES,
    *(b"\xef\xbb\xbf", b"\r\n", b"\r", b"\0", b"\xff\xfe", b'"\\ud800"', b'"\\udc80"', b"\xed\xa0\x80", b"\t"),
    *(
        b"9" * 5000,
        b"1e999",
        b"-1",
        b"true",
        b"null",
        b"~",
        b".inf",
        b"[1]",
        b"{}",
        b"[]",
        b"{[a]: b}",
        b"? [a]\n: b\n",
    ),
    *(
        b"[" * 3000,
        b"{" * 300,
        b"- " * 300,
        b"? " * 300,
        b"a: " * 50,
        b'{"a":' * 300,
        b"&a [*a]",
        b"!!int x",
        b"!!set {}",
    ),
    *(b"2026-01-01", b"0o17", b"1_000", b"12:30:45", b"<<: *a", b"%YAML 1.1\n---\n", b"%TAG ! x\n", b"|+\n", b">\n"),
)


def mutated_file(seeds: tuple[bytes, ...], source: random.Random) -> bytes:
    """Return a valid file with values, words and bits changed; sometimes random bytes."""
    if source.random() < 0.03:
        return source.randbytes(source.randrange(0, 300))
    data = source.choice(seeds)
    if data.startswith(b"{") and source.random() < 0.6:
        head, newline, tail = data.partition(b"\n") if b"\n}" not in data else (data, b"", b"")
        document = json.loads(head)
        for _ in range(source.choice((1, 1, 2, 3))):
            document = _exchanged(document, source)
        return (
            json.dumps(document, ensure_ascii=source.random() < 0.5).encode("utf-8", "surrogatepass") + newline + tail
        )
    for _ in range(source.choice((0, 1, 1, 2, 3, 5))):
        data = _spoilt(data, source)
    return data


def _exchanged(document: Any, source: random.Random) -> Any:
    """Return a JSON document in which one value is changed or removed."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        each = pending.pop()
        items = (
            list(each.items()) if isinstance(each, dict) else list(enumerate(each)) if isinstance(each, list) else []
        )
        places += [(each, key) for key, _ in items]
        pending += [value for _, value in items if isinstance(value, dict | list)]
    if not places or source.random() < 0.02:
        return copy.deepcopy(source.choice(VALUES))
    place, key = source.choice(places)
    if source.random() < 0.1:
        del place[key]
    elif source.random() < 0.1 and isinstance(place, dict):
        place[str(source.choice(VALUES))[:100]] = place.pop(key)
    else:
        place[key] = copy.deepcopy(source.choice(VALUES))
    return document


def _spoilt(data: bytes, source: random.Random) -> bytes:
    """Return the bytes with a bit flipped, a word or piece exchanged, a line repeated, or truncated."""
    at = source.randrange(len(data) + 1)
    kind = source.random()
    if kind < 0.1 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :]
    if kind < 0.5:
        words = list(re.finditer(rb"[A-Za-z0-9_.+-]+|'[^'\n]*'|\"[^\"\n]*\"|\[[^\]\n]*\]", data))
        if words:
            word = source.choice(words)
            return data[: word.start()] + source.choice(TOKENS) + data[word.end() :]
    if kind < 0.75:
        return data[:at] + source.choice(TOKENS) + data[at + source.choice((0, 0, 1, 4, 20)) :]
    if kind < 0.85:
        lines = data.splitlines(keepends=True) or [b""]
        number = source.randrange(len(lines))
        lines[number:number] = [lines[source.randrange(len(lines))]] * source.choice((1, 2, 50))
        return b"".join(lines)
    if kind < 0.9:
        return data.replace(b"\n", source.choice((b"\r\n", b"\r", b"\n\n", b"\n ")))
    return data[:at] if kind < 0.95 else data[at:]


def target(name: str, directory: Path) -> tuple[Callable[[random.Random], bytes], Callable[[bytes, bool], bool]]:
    """Return functions that make a case of a dialect or reader, and that check one: whether it was read."""
    if name in BLOCKS:
        for block in BLOCKS[name]:
            assert check_block(block), block
        return lambda source: mutated(name, source), lambda data, python: check_block(data, python=python)
    from fuzz.readers import READERS, check

    reader = READERS[name]
    place = directory / reader.file
    place.parent.mkdir(parents=True, exist_ok=True)

    def read(data: bytes, _: bool = False) -> bool:
        place.write_bytes(data)
        return check(reader, directory)

    for seed in reader.seeds:
        assert read(seed) and reader.read(directory), seed
    return lambda source: mutated_file(reader.seeds, source), read


def run(name: str, count: int, directory: Path) -> tuple[int, int]:
    """Read this many mutations; return how many there were, and how many were read successfully."""
    make, check = target(name, directory)
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
        data = make(source)
        (directory / "last").write_bytes(data)
        # a longer time kills the process, also inside a library; CPU time does not depend on the load of the machine
        signal.setitimer(signal.ITIMER_PROF, SECONDS_ONE)
        try:
            seen[1] += check(data, python)
        except BaseException:
            print(f"{name}: {data[:5000]!r}", file=sys.stderr)
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seen[0] += 1

    read()
    return seen[0], seen[1]


def _most_memory() -> int:
    """Return the most bytes that this program has used; on Linux without those of the process that forked."""
    with suppress(OSError, IndexError), open("/proc/self/status", encoding="ascii") as file:
        return int(file.read().split("VmHWM:")[1].split()[0]) << 10
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used << 10


def main() -> None:
    """Read the command line, set the limits, and run."""
    name, count = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seconds = SECONDS + int(count * SECONDS_EACH)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with tempfile.TemporaryDirectory(prefix="cetool-fuzz-") as directory:
        print(*run(name, count, Path(directory)))
    used = _most_memory() >> 20
    assert used < MOST_MIB, f"{name}: {used} MiB"


if __name__ == "__main__":
    main()
