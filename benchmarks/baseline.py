"""Environments that start from a baseline of 60 packages, compared with only linking the same packages."""

from __future__ import annotations

import sys
from pathlib import Path

from support.archive import Entry, Package
from support.baselines import Shelf, explicit, small

from benchmarks.cold import engines, remover, variables
from benchmarks.groups import Group, Ratio
from benchmarks.measure import Case
from benchmarks.scene import Scene

#: The maximum time of an environment from a baseline, as a multiple of the time of only linking.
BAR = 2.0
PACKAGES = 60
#: Files per package.
FILES = 100

_DIRECT = Path(__file__).with_name("direct_linking.py")
_CREATE = {
    "conda": 'prefix=$2 script=$3; "$1" create --yes --offline --prefix "$prefix" --no-default-packages --file "$4" '
    '&& exec /bin/sh "$script"',
    "mamba": 'prefix=$2 script=$3; "$1" create -y --offline -p "$prefix" --file "$4" && exec /bin/sh "$script"',
}


def baseline_group(scene: Scene, rounds: int) -> Group:
    """Remove two packages of a baseline, and add one: with each engine, packages cached."""
    shelf = Shelf(scene.home.path / "shelves", {})
    shelf.put(*map(_package, range(PACKAGES)), small("extra", "1.0", "p03"))
    url = shelf.root.as_uri()
    scene.home.write("standard.txt", explicit(shelf.lines(url, ["p"])))
    linked = [line for line in shelf.lines(url) if "/p58-" not in line and "/p59-" not in line]
    same = scene.home.write("linked.txt", explicit(linked))
    keys = f"# baseline: standard.txt\n# without: [p58, p59]\n# channels: ['{url}/shelf']\n"
    less = _script(scene, "less.sh", keys)
    other = _script(scene, "other.sh", keys + "# env: [extra]\n")
    cases: list[Case] = []
    comparisons: list[Ratio] = []
    for engine in engines(scene):
        packages = scene.home.path / f"shelf-{engine}"
        env, cache = variables(scene, engine, packages)
        alone, name = f"{engine}: linking alone", f"cetool, {engine}: a baseline"
        prefix = scene.home.path / f"linked-{engine}"
        # only linking uses the packages that cetool has put into the cache
        scene.ask(scene.cetool, str(other), env=env)
        if engine == "rattler":
            argv: tuple[str, ...] = (
                sys.executable,
                str(_DIRECT),
                str(prefix),
                str(packages / "rattler" / "pkgs"),
                str(other),
            )
        else:
            words = _CREATE["conda" if engine == "conda" else "mamba"]
            argv = ("/bin/sh", "-c", words, "sh", scene.programs[engine], str(prefix), str(other), str(same))
        every = 1 if engine == "rattler" else 3
        cases.append(Case(alone, argv, env, prepare=remover(prefix), every=every))
        for what, script in (("two taken out", less), ("two taken out, one put in", other)):
            full = f"{name}, {what}"
            cases.append(Case(full, (scene.cetool, "-q", str(script)), env, alone, remover(cache), every=every))
            comparisons.append(Ratio(f"{engine}, {what}, to linking alone", full, alone, target=BAR))
    notes = [
        f"{PACKAGES} packages of {FILES} small files each. Linking alone is given the packages and checks nothing."
    ]
    return Group("baseline", "A baseline of 60 packages", rounds, cases, comparisons, notes)


def _package(number: int) -> Package:
    name = f"p{number:02}"
    entries = tuple(Entry(f"share/{name}/{at}", f"{number} {at}".encode()) for at in range(FILES))
    return Package(name, "1.0", entries=entries, depends=(f"p{number - 1:02}",) if number else ())


def _script(scene: Scene, name: str, keys: str) -> Path:
    return scene.home.write(name, f"#!/bin/sh\n# conda execute\n{keys}:\n", executable=True)
