"""Fuzz all dialects and readers, or the given ones: ``python -m fuzz [SECONDS] [TARGET ...]``, in ``tests``.

Each target runs for so many seconds (60), guided by atheris where that is installed, else for 2,000 random cases.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.blocks import BLOCKS
from fuzz.readers import READERS

_RANDOM_CASES = 2000


def main() -> int:
    """Run the targets one after the other; return 1 if one of them found something."""
    words = sys.argv[1:]
    seconds = words.pop(0) if words and words[0].isdecimal() else "60"
    guided = importlib.util.find_spec("atheris") is not None
    failed = []
    for name in words or [*BLOCKS, *READERS]:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="cetool-corpus-") as corpus:
            limits = ["-max_len=8192", "-timeout=10", "-rss_limit_mb=3000", f"-max_total_time={seconds}"]
            found = f"-artifact_prefix={Path.cwd()}/found-{name.replace(' ', '-')}-"
            how = ["fuzz.guided", name, corpus, *limits, found] if guided else ["fuzz.mutate", name, str(_RANDOM_CASES)]
            if subprocess.run([sys.executable, "-m", *how]).returncode:
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
