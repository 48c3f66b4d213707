"""Build the documentation site in ``site/``: ``nox -s docs`` runs this.

Zensical builds the pages and fails where a link or an anchor in them leads nowhere. After that, this program makes the
search work without a network, also from ``file://``, and checks the links of the pages that came out.
"""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What Zensical's offline plugin loads from a server to have workers on ``file://``.
_SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"[^>]*></script>')
#: The same without a server: browsers start no worker from a ``file://`` URL, but they start one from a text.
_WORKER = """if (location.protocol === "file:") {
  const source = %s
  const Plain = Worker
  window.Worker = class extends Plain {
    constructor() { super(URL.createObjectURL(new Blob([source], { type: "text/javascript" }))) }
  }
}
"""


class Page(html.parser.HTMLParser):
    """The anchors and the links of a page; its scripts, styles and images are links, too."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[key] for key in ("id", "name") if key in values)
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        for key in ("href", "src") if tag in ("link", "script", "img", "iframe") else ():
            if key in values and values.get("rel") != "canonical":
                self.loaded.add(values[key])


def build(site: Path) -> None:
    """Build the site in a directory of its own, so that no page comes from a cache, and put it in ``site``."""
    with tempfile.TemporaryDirectory(prefix="cetool-site-") as directory:
        work = Path(directory)
        shutil.copytree(ROOT / "docs", work / "docs")
        shutil.copy(ROOT / "zensical.toml", work)
        zensical = Path(sys.executable).with_name("zensical")
        if subprocess.call([zensical, "build", "--strict"], cwd=work) != 0:
            raise SystemExit("the site was not built: see the warnings above")
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(work / "site", site)


def make_offline(site: Path) -> None:
    """Replace the script that pages load from a server by one of the site."""
    (worker,) = site.glob("assets/javascripts/workers/search.*.js")
    script = site / "assets/javascripts/worker-from-file.js"
    script.write_text(_WORKER % json.dumps(worker.read_text(encoding="utf-8")), encoding="utf-8")
    for path in site.rglob("*.html"):
        prefix = "../" * (len(path.relative_to(site).parts) - 1)
        ours = f'<script src="{prefix}{script.relative_to(site).as_posix()}"></script>'
        path.write_text(_SHIM.sub(ours, path.read_text(encoding="utf-8")), encoding="utf-8")


def broken(site: Path) -> list[str]:
    """List the links that lead nowhere, and what pages load from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        if name.as_posix() == "404.html":
            continue
        for link in sorted(page.links | page.loaded):
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    problems.append(f"{name}: loads {link}")
                elif parts.scheme != "https" or "." not in (parts.hostname or "") or " " in link:
                    problems.append(f"{name}: {link} is not an https URL")
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file():
                problems.append(f"{name}: {link} leads nowhere")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                problems.append(f"{name}: {link} has no such anchor")
    return problems


def main() -> int:
    """Build the site, check it, and say where it is."""
    site = ROOT / "site"
    build(site)
    make_offline(site)
    if problems := broken(site):
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    print(f"The site is in {site}: open {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
