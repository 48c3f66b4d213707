"""The cost of executables that installers write: those of pip, uv and conda, and variants without site."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.cases import CETOOL_BASE
from benchmarks.groups import Difference, Group
from benchmarks.measure import Case
from benchmarks.scene import Scene

COMPILED = "the same system calls, in C"
ALONE, WITH_SITE = "python -I -S -c pass", "python -I -c pass"

_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)")

#: What installers write below the shebang, in equivalent code; ``{site}`` is the directory of packages.
VARIANTS: Mapping[str, tuple[str, str]] = {
    "as pip 26 writes it": (
        "#!{python}",
        "import sys\nfrom cetool.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit(main())\n",
    ),
    "with import re (pip 23, conda, rattler)": (
        "#!{python}",
        "import re\nimport sys\nfrom cetool.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\n"
        "    sys.exit(main())\n",
    ),
    "isolated (#!python -I)": (
        "#!{python} -I",
        "import sys\nfrom cetool.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
    ),
    "without site (#!python -IS)": (
        "#!{python} -IS",
        "import sys\nsys.path.append('{site}')\nfrom cetool.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n",
    ),
    "without site, by way of sh": (
        "#!/bin/sh",
        "'''exec' '{python}' -IS \"$0\" \"$@\"\n' '''\nimport sys\nsys.path.append('{site}')\n"
        "from cetool.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
    ),
}


def executable_group(scene: Scene, rounds: int) -> Group:
    """Measure the same warm run with different executables."""
    script = scene.script("executable.py")
    base = f"{scene.prefix(script)}/bin/python"
    env = scene.env
    where = "import cetool, os; print(os.path.dirname(cetool.__path__[0]))"
    places = {"python": sys.executable, "site": scene.ask(sys.executable, "-c", where)}
    cases = [
        Case(ALONE, (sys.executable, "-I", "-S", "-c", "pass"), env),
        Case(WITH_SITE, (sys.executable, "-I", "-c", "pass"), env, ALONE),
        Case("python -c pass", (sys.executable, "-c", "pass"), env, ALONE),
        Case(CETOOL_BASE, (base, script), env),
        Case("cetool as installed here", (scene.cetool, script), env, CETOOL_BASE),
        Case("python -m cetool", (sys.executable, "-m", "cetool", script), env, CETOOL_BASE),
    ]
    for number, (name, (shebang, text)) in enumerate(VARIANTS.items()):
        written = f"{shebang}\n{text}".format(**places)
        path = scene.home.write(f"variants/{number}/cetool", written, executable=True)
        cases.append(Case(f"cetool {name}", (str(path), script), env, CETOOL_BASE))
    compiled = _compiled(scene)
    if compiled is not None:
        directory = scene.home.path / "compiled"
        directory.mkdir()
        cases.append(Case(COMPILED, (compiled, base, str(directory), script), env, CETOOL_BASE))
    comparisons = [
        Difference("the interpreter alone", ALONE),
        Difference("site", WITH_SITE, ALONE),
        Difference("cetool as installed here adds", "cetool as installed here", CETOOL_BASE),
        *(
            Difference(f"cetool {name}, to as installed", f"cetool {name}", "cetool as installed here")
            for name in VARIANTS
        ),
        *([] if compiled is None else [Difference(f"{COMPILED} adds", COMPILED, CETOOL_BASE)]),
    ]
    notes = [_imports(scene, script)]
    return Group("executable", "The executable that pip, uv, pipx or conda makes", rounds, cases, comparisons, notes)


def _compiled(scene: Scene) -> str | None:
    """Compile the program that makes a warm run's system calls; None if there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        scene.skipped[COMPILED] = "cc is not on the PATH"
        return None
    program = scene.home.path / "launcher"
    scene.ask(compiler, "-O2", "-o", str(program), str(Path(__file__).with_name("launcher.c")))
    return str(program)


def _imports(scene: Scene, script: str, times: int = 5) -> str:
    """Return what a warm run imports after site, in microseconds by ``-X importtime``: medians of several runs."""
    found: dict[str, list[int]] = {}
    site: list[int] = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", scene.cetool, script],
            env=scene.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        began = False
        for own, whole, name in _IMPORT.findall(done.stderr):
            if name == "site":
                began = True
                site.append(int(whole))
            elif began:
                found.setdefault(name, []).append(int(own))
    # the first run was not warm and imported more
    found = {name: own for name, own in found.items() if len(own) == times}
    told = ", ".join(f"{name} {statistics.median(own):.0f}" for name, own in found.items())
    return (
        f"By -X importtime, in microseconds: site {statistics.median(site):.0f}; after it {told} "
        f"({len(found)} modules, {sum(statistics.median(own) for own in found.values()):.0f} in all)."
    )
