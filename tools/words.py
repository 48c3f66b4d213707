"""Check that texts are in plain English: ``python tools/words.py [FILE ...]``, part of ``nox -s lint``.

It looks for words and phrases that readers stumble over (:data:`INSTEAD`) in the strings, docstrings and comments of
Python files and in the prose of Markdown files (code in it is skipped), and prints ``FILE:LINE: 'found': write ...``
for each. :data:`ALLOWED` has the places where such a word is right, with the reason. The exit status is 1 if it found
something, or if an entry of the allowlist is out of date.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

#: A regular expression for each word or phrase to avoid, and what to write.
INSTEAD = {
    r"anew": "again; re-create",
    r"nobody": "no process, no user; or the passive without a subject",
    r"whoever|whomever|whom": "any user, a user who; or rephrase",
    r"(is|are|was|were) (told|tell)": "is reported, prints, says, is shown",
    r"tells? of": "reports, shows",
    r"(to |not |can(not)? )be had": "available; conflict",
    r"(stands?|stood|lies|lay) (in|at|before|behind|above|below|beside)": "is in, comes before",
    r"(does|do|did|would|will|may|can|could|cannot) not serve|serves? as well": "cannot be used; works",
    r"what (is|are|was|were) (no|none)": "is not a ...",
    r"(?<!there )\b(is|are) (?-i:none)(?= [a-z]|[.,;:)]|$)": "is missing, is not a ...; there is no ...",
    r"besides|beside (it|them|that)|thereby|therein|thereof|wherein|whereof|therefrom": "also, next to; or nothing",
    r"by now": "now; or leave it out",
    r"(?<!same )as (it|they) (was|were)": "unchanged",
    r"without a word": "silently",
    r"(the|a|its|no) way out": "hint, fix",
    r"c[ao]mes? of (it|this|that)|came of": "results in, becomes",
    r"makes? do with": "use only",
    r"in force is": "the value is",
    r"(an|the) (environments?|packages?|locks?|scripts?|files?|things?) that there (is|are|was|were)": "all, existing",
    r"arguments there are": "takes no arguments",
    r"(does|do|did|would) not say what (it|they) needs?": "declares no environment",
    r"whither|whence|hitherto|heretofore|lest|ere|thither|hereto|amid|upon": "a modern word",
    r"of cetool's": "cetool's ...",
    r"mend(s|ed|ing)?": "fix, repair",
    r"\(1 [a-z]+s\)": "the singular",
    r"takes the place of": "replaces",
    r"stands? in for": "replaces, is used for",
    r"to a bug report belongs": "include ... in bug reports",
    r"goes? by itself|goes? away by itself": "cetool removes it",
    r"(is|are) due to be": "will be",
}

#: Places where one of these is right: a pattern for files, the text found (* is any), the reason.
ALLOWED: list[tuple[str, str, str]] = [
    ("tools/words.py", "*", "the list of the words"),
    ("tests/test_words.py", "*", "the texts that the check is tried with"),
    ("tests/cli/test_shebang.py", "nobody", "the name of a file"),
]


_COMPILED = {
    re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE): advice for pattern, advice in INSTEAD.items()
}


def find(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield position, found text and advice for each match in a text without line breaks."""
    for pattern, advice in _COMPILED.items():
        for match in pattern.finditer(text):
            yield match.start(), match.group(), advice


Run = list[tuple[int, str]]


def read_python(source: str) -> Iterator[Run]:
    """Yield the strings and the comments of a Python file: runs of (line, text), adjacent ones as one run."""
    run: Run = []
    kind = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name in ("NL", "INDENT", "DEDENT", "FSTRING_START", "FSTRING_END"):
            continue
        this = {"STRING": 1, "FSTRING_MIDDLE": 1, "COMMENT": 2}.get(name, 0)
        if run and this != kind:
            yield run
            run = []
        kind = this
        if this == 2:
            run.append((token.start[0], token.string.lstrip("#: ") + " "))
        elif this == 1:
            text = token.string if name == "FSTRING_MIDDLE" else re.sub(r"^\w*['\"]+|['\"]+$", "", token.string)
            run += [(token.start[0] + at, line) for at, line in enumerate(_one_line_each(text))]
    if run:
        yield run


def _one_line_each(text: str) -> list[str]:
    """Split a text into its lines, with one space instead of each line break and its indentation."""
    first, *rest = text.split("\n")
    return [first, *(" " + line.strip() for line in rest)]


def read_markdown(source: str) -> Iterator[Run]:
    """Yield the paragraphs of a Markdown file, without code: runs of (line, text)."""
    run: Run = []
    fence = ""
    for number, line in enumerate(source.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark.group(1)
            line = ""
        if fence or not line.strip():
            if run:
                yield run
            run = []
            continue
        run.append((number, re.sub(r"`[^`]*`", "`...`", line.strip()) + " "))
    if run:
        yield run


def check(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, found text and advice for each word to avoid in a file."""
    source = path.read_text(encoding="utf-8")
    for run in read_markdown(source) if path.suffix == ".md" else read_python(source):
        joined = "".join(text for _, text in run)
        for position, found, advice in find(joined):
            end = 0
            for line, text in run:
                end += len(text)
                if position < end:
                    yield line, found, advice
                    break


def main(arguments: list[str]) -> int:
    """Check the files, or all of the project's, and return the exit status."""
    if arguments:
        names = [Path(each).resolve().relative_to(ROOT).as_posix() for each in arguments]
    else:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    used: set[tuple[str, str, str]] = set()
    problems = 0
    for name in names:
        for line, found, advice in check(ROOT / name):
            allowed = [
                entry
                for entry in ALLOWED
                if PurePosixPath(name).match(entry[0]) and entry[1].lower() in ("*", found.lower())
            ]
            used.update(allowed)
            if not allowed:
                problems += 1
                print(f"{name}:{line}: {found!r}: write {advice}")
    if not arguments:
        for path, text, _ in [each for each in ALLOWED if each not in used]:
            problems += 1
            print(f"tools/words.py: nothing is found for the allowed {text!r} in {path}: remove the entry")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
