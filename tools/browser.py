"""Install Chromium for the tests of web pages, if it is missing and apt-get can: ``python tools/browser.py``.

Anything that goes wrong is printed, and is no failure: tests that need a browser are skipped without one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: The names of the executable, in the order of preference; tests/support/browser.py has them too.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    """Install Debian's chromium as root; say why not otherwise."""
    if any(map(shutil.which, PROGRAMS)) or os.environ.get("CETOOL_TEST_CHROMIUM"):
        return
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        print("Chromium is not installed: the tests in a browser are skipped", file=sys.stderr)
        return
    print("Installing chromium", file=sys.stderr, flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", "--quiet", "--quiet", *words], env=env, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            print(f"apt-get {words[0]} failed: the tests in a browser are skipped", file=sys.stderr)
            return


if __name__ == "__main__":
    main()
