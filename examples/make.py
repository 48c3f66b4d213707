#!/usr/bin/env cetool
"""Convert the Markdown pages in the same directory to HTML: like a Makefile, but with its own tools."""

# conda execute
# env:
#  - python >=3.9
#  - markdown
# run_with: python

import argparse
import time
import zipfile
from pathlib import Path

import markdown

HERE = Path(__file__).parent


def make_html(source: Path, output: Path) -> list[Path]:
    """Convert every ``*.md`` in ``source`` to a page in ``output``; return the pages."""
    output.mkdir(parents=True, exist_ok=True)
    pages = []
    for page in sorted(source.glob("*.md")):
        body = markdown.markdown(page.read_text(encoding="utf-8"))
        target = output / f"{page.stem}.html"
        target.write_text(f"<!doctype html>\n<title>{page.stem}</title>\n{body}\n", encoding="utf-8")
        pages.append(target)
    return pages


def html(args: argparse.Namespace) -> None:
    """Make the HTML."""
    for page in make_html(args.source, args.output):
        print(f"wrote {page}")


def publish(args: argparse.Namespace) -> None:
    """Make the HTML and pack it into site.zip for upload."""
    pages = make_html(args.source, args.output)
    with zipfile.ZipFile(args.output / "site.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for page in pages:
            archive.write(page, page.name)
    print(f"packed {len(pages)} pages into {args.output / 'site.zip'}")


def reload(args: argparse.Namespace) -> None:
    """Make the HTML again whenever a page changes, until Ctrl-C."""
    made = None
    try:
        while True:
            state = {page: page.stat().st_mtime_ns for page in args.source.glob("*.md")}
            if state != made:
                html(args)
                made = state
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("stopped")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=HERE / "pages", help="where the pages are (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "output", help="where the HTML goes (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="{html,publish,reload}")
    for function in (html, publish, reload):
        commands.add_parser(function.__name__, help=function.__doc__).set_defaults(function=function)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
