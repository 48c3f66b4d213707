"""Check scripts' declarations: for errors, and for what their users may regret later."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cetool.app.consent import consent_to
from cetool.app.deciding import specify
from cetool.app.decision import Decision, placed
from cetool.app.reporting import Reporter
from cetool.app.sources import Source, open_source
from cetool.app.world import World
from cetool.base.errors import MetadataError, UsageError
from cetool.base.limits import SCRIPT, read_regular
from cetool.base.text import nearest, printable
from cetool.base.urls import redact, scrub, strip_credentials
from cetool.declare.blocks import CONDA_EXECUTE, PEP723, Block, find_block, near_miss
from cetool.declare.dialects.notebook import METADATA_KEYS, find_cell, read_notebook
from cetool.declare.languages import PYTHON, language_of, language_of_program, package_of_program
from cetool.declare.match_specs import canonical_spec, requires_python_spec, spec_name
from cetool.declare.metadata import ScriptMetadata, nothing_found, read_metadata
from cetool.declare.nodes import Node
from cetool.declare.pypi import canonical_requirement
from cetool.declare.source import Script, is_notebook, is_url, read_script
from cetool.edit.declared import DeclaredItem, block_tree, channels_place, declared_items
from cetool.launch.entrypoint import parse_entrypoint

#: The rules, and what they mean. Those in :data:`ERRORS` keep a script from running.
RULES = {
    "metadata": "malformed block: syntax error, unknown key, invalid match spec",
    "undeclared": "script without a block",
    "unsatisfiable": "packages that conflict or do not exist (with --solve)",
    "unpinned": "package without a version",
    "duplicate": "package that is declared twice",
    "no-python": "Python script whose environment has no Python",
    "run-with": "script that runs with a program of no declared package",
    "ignored": "key that cetool ignores",
    "secret": "password or token in a URL",
}
ERRORS = ("metadata", "undeclared", "unsatisfiable", "secret")

_VERSIONED = re.compile(r"\[[^\]]*\b(?:version|url|md5|sha256|build_number|fn)=")
_SHELL = re.compile(r"[|&;<>`$]|\*")


@dataclass(frozen=True)
class Finding:
    """A finding: its rule, message, line (None: the whole file), and a hint.

    ``part`` is the name, for messages, of the notebook cell in which the line is.
    """

    rule: str
    message: str
    line: int | None = None
    hint: str | None = None
    part: str | None = None

    @property
    def severity(self) -> Literal["error", "warning"]:
        """Return ``error`` for what prevents the script from running, or should."""
        return "error" if self.rule in ERRORS else "warning"


@dataclass(frozen=True)
class Checked:
    """A checked script: its name in messages, its declaration (None: unreadable), and the findings."""

    name: str
    metadata: ScriptMetadata | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Checks:
    """How to check: whether to solve, which rules to ignore, and whether to skip scripts without a block."""

    solve: bool = False
    ignore: tuple[str, ...] = ()
    declared_only: bool = False
    insecure: bool = False


def check_scripts(targets: Sequence[str], checks: Checks, world: World, reporter: Reporter) -> list[Checked]:
    """Check scripts. Raises UsageError for an unknown rule, CetoolError if a file cannot be read."""
    for rule in checks.ignore:
        if rule not in RULES:
            raise UsageError(f"unknown rule {rule!r}", hint=nearest(rule, RULES))
    found = []
    for target in targets:
        source, metadata, findings = _look_at(target, checks, world, reporter)
        if checks.solve and metadata is not None and not any(finding.severity == "error" for finding in findings):
            findings += _solve(source, metadata, world, reporter)
        kept = tuple(finding for finding in findings if finding.rule not in checks.ignore)
        found.append(Checked(redact(printable(target)), metadata, kept))
    return found


def _look_at(
    target: str, checks: Checks, world: World, reporter: Reporter
) -> tuple[Source | None, ScriptMetadata | None, list[Finding]]:
    """Return a script, its declaration, and the findings. Raises CetoolError if the file cannot be read."""
    try:
        if is_url(target):
            source, _ = open_source(target, world, reporter, insecure=checks.insecure)
        else:
            source = Source(read_script(target), target)
    except MetadataError as error:  # not text, or empty
        return None, None, [] if checks.declared_only and not _has_mark(target) else [finding_of(error)]
    script = source.script
    metadata, findings = lint_script(script, declared_only=checks.declared_only)
    if metadata is not None and metadata.entrypoint is not None:
        try:
            parse_entrypoint(metadata.entrypoint, script.at())
        except MetadataError as error:
            findings.append(finding_of(error))
    return source, metadata, findings


def _solve(source: Source | None, metadata: ScriptMetadata, world: World, reporter: Reporter) -> list[Finding]:
    """Check whether the environment can be made; raise what prevents that from being known (no network)."""
    from cetool.engines.errors import UnsatisfiableError  # engines: only with --solve
    from cetool.engines.protocol import Hold
    from cetool.engines.solve import count_packages

    if metadata.requirements.environment is not None:
        reporter.warn(f"{metadata.path}: not solved: a server chooses the packages of its environment")
        return []
    spec, _ = specify(metadata.requirements, world)
    if spec.overlay is not None:
        reporter.warn(f"{metadata.path}: not solved: an overlay is resolved when the script runs")
        return []
    if spec.pypi:
        reporter.detail(f"{metadata.path}: packages from PyPI are not checked")
    decision = Decision(metadata, spec, source)
    consent = consent_to(decision, world, reporter)
    decision = decision._replace(agreed=consent)
    with reporter.progress() as progress:
        try:
            if metadata.requirements.baselines:
                from cetool.app.on_baselines import Terms, on_baselines  # few scripts start from a baseline

                decision = on_baselines(decision, Terms(), world, reporter)
            if not decision.spec.is_locked:
                count_packages(world.request(decision.spec), progress, Hold(consent, own_process=world.own_process))
        except UnsatisfiableError as error:
            where = placed(error, source, metadata).where
            line = where.line if where else metadata.lines[0] if metadata.lines else None
            hint = "\n".join(filter(None, (*error.details, error.hint)))
            return [Finding("unsatisfiable", scrub(error.message), line, scrub(hint) or None)]
    return []


def _has_mark(path: str) -> bool:
    """Return whether a file that is not text contains something like the opening of a block."""
    try:
        data = read_regular(path, SCRIPT)
    except (OSError, ValueError):
        return False
    return any(mark in data for mark in (b"# conda execute", b"/// script", b"/// conda-script"))


def lint_script(script: Script, *, declared_only: bool = False) -> tuple[ScriptMetadata | None, list[Finding]]:
    """Return the script's declaration (None if it cannot be read), and the findings, sorted by line.

    With ``declared_only`` there are no findings for a script without a block, unless it seems to have one.
    """
    if is_notebook(script):
        return _lint_notebook(script, declared_only=declared_only)
    try:
        block = find_block(script)
        if block is None:
            if declared_only and near_miss(script) is None:
                return None, []
            error = nothing_found(script)
            return None, [Finding("undeclared", error.message, _line(error), error.hint)]
        metadata = read_metadata(script)
    except MetadataError as error:
        return None, [finding_of(error)]
    found = [*_items(script, block), *_command(metadata, script, block)]
    found += [Finding("ignored", each.text, each.where.line) for each in metadata.requirements.warnings]
    return metadata, sorted(found, key=lambda finding: finding.line or 0)


def _lint_notebook(script: Script, *, declared_only: bool) -> tuple[ScriptMetadata | None, list[Finding]]:
    """Do the same for a notebook, with lines counted in the cell with the block."""
    declares = True
    try:
        notebook = read_notebook(script)
        found = find_cell(notebook)
        declares = found is not None or any(key in notebook.metadata for key in METADATA_KEYS)
        if not declares and declared_only:
            return None, []
        metadata = read_metadata(script)
    except MetadataError as error:
        if not declares:
            return None, [Finding("undeclared", error.message, _line(error), error.hint)]
        return None, [finding_of(error)]
    ignored = metadata.requirements.warnings
    if found is None:
        return metadata, [Finding("ignored", each.text, each.where.line) for each in ignored]
    cell, block = found
    source = notebook.cell_script(cell)
    items = [*_items(source, block), *(Finding("ignored", each.text, each.where.line) for each in ignored)]
    return metadata, [replace(item, part=source.name) for item in sorted(items, key=lambda item: item.line or 0)]


def finding_of(error: MetadataError) -> Finding:
    """Return a malformed block as a finding."""
    part = error.where.path if error.where is not None and ".ipynb:" in error.where.path else None
    return Finding("metadata", error.message, _line(error), error.hint, part)


def _line(error: MetadataError) -> int | None:
    return error.where.line if error.where is not None else None


def _items(script: Script, block: Block) -> Iterator[Finding]:
    """Yield findings about packages and channels."""
    root = block_tree(block, script)
    items = declared_items(root, block.dialect)
    for item in items:
        yield from _package(item, root, script)
    counts = Counter((item.kind, item.name) for item in items if item.platform is None)
    seen: Counter[tuple[str, str]] = Counter()
    for item in items:
        key = (item.kind, item.name)
        seen[key] += 1
        if item.platform is None and counts[key] > 1 and seen[key] > 1:
            yield Finding(
                "duplicate",
                f"{item.name} is declared more than once",
                item.line,
                "Declare it once, with all constraints.",
            )
    own = root if block.dialect == CONDA_EXECUTE else root.below("tool", "cetool")
    baseline = None if own is None else own.below("baseline")
    for node in () if baseline is None else baseline.items or (baseline,):
        if strip_credentials(node.text) != node.text:
            hint = "Move it to ~/.netrc."
            yield Finding("secret", f"password or token in baseline '{redact(node.text)}'", node.where.line, hint)
    if block.dialect == PEP723 and ("conda", PYTHON) not in counts and baseline is None:
        hint = 'Add requires-python = ">=3.11".'
        yield Finding("unpinned", "the Python version is not declared", block.first, hint)
    place = channels_place(root, block.dialect)
    listed = None if place is None else root.below(*place)
    for node in () if listed is None else listed.items:
        if strip_credentials(node.text) != node.text:
            hint = "Move it to ~/.netrc, or to the channel's URL in .condarc."
            yield Finding("secret", f"password or token in channel '{redact(node.text)}'", node.where.line, hint)


def _package(item: DeclaredItem, root: Node, script: Script) -> Iterator[Finding]:
    if strip_credentials(item.text) != item.text:
        yield Finding("secret", f"password or token in '{redact(item.text)}'", item.line, "Move it to ~/.netrc.")
    node = root.below(*map(str, item.path)) if item.form == "entry" else None
    if node is not None and node.kind == "mapping":
        fields = node.entries
        version = fields["version"].text if "version" in fields else "*"
        pinned = version.strip() != "*" or bool({"url", "md5", "sha256", "git", "path", "build-number"} & fields.keys())
    elif item.form == "requires-python":
        pinned = requires_python_spec(node.text if node else item.text.partition(" ")[2]) != PYTHON
    elif item.kind == "conda":
        canonical = canonical_spec(item.text, base_dir=script.directory)
        rest = canonical.partition("[")[0].rpartition("::")[2].partition(" ")[2].strip()
        pinned = rest not in ("", "*") or _VERSIONED.search(canonical) is not None
    else:
        requirement = canonical_requirement(item.text, base_dir=script.directory)
        pinned = re.search(r"[<>=~!@]", requirement.partition(";")[0]) is not None
    if not pinned:
        source = " (from PyPI)" if item.kind == "pypi" else ""
        hint = f"Add the versions that work: '{item.name} >=1.2,<2'."
        yield Finding("unpinned", f"{item.name}{source} has no version", item.line, hint)


def _command(metadata: ScriptMetadata, script: Script, block: Block) -> Iterator[Finding]:
    """Yield findings about how the script runs."""
    if metadata.requirements.environment is not None:
        return  # its packages are not known here
    names = {spec_name(spec) for spec in metadata.requirements.packages}
    names |= {PYTHON} if metadata.requirements.pypi or metadata.requirements.overlay is not None else set()
    if metadata.undecided and not metadata.requirements.baselines:
        hint = "Add 'run_with' to its block, for example `run_with: python`."
        yield Finding("run-with", f"no program to run the script: {metadata.undecided}", block.first, hint)
        return
    words = metadata.run_with or ()
    program = words[0] if words else ""
    if program.rpartition("/")[2] == "env":
        program = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    language = language_of_program(program) if program else None
    python = language.is_python if language is not None else not program and language_of(script).is_python
    if python and PYTHON not in names:
        if not _on_this_machine(program) and not metadata.requirements.baselines:
            hint = "Add '- python >=3.11' to the packages."
            yield Finding("no-python", "a Python script declares no Python", block.first, hint)
        return
    if any(_SHELL.search(word) for word in words):
        text = " ".join(words)
        hint = "No shell reads run_with: it is a program and its arguments, followed by the script's path."
        yield Finding("run-with", f"run_with looks like a shell command line: '{redact(text)}'", block.first, hint)
        return
    if metadata.requirements.baselines:
        return  # the baseline's packages are unknown
    package = None if _on_this_machine(program) else package_of_program(program)
    if package is not None and not any(_brings(name, package) for name in names):
        hint = f"Add '{package}', or a package that requires it, unless you mean the one outside the environment."
        yield Finding("run-with", f"the script runs with {program}, which no declared package has", block.first, hint)


def _on_this_machine(program: str) -> bool:
    """Return whether a program is an absolute path, such as ``/bin/sh``, and not searched for."""
    return program.startswith("/")


def _brings(name: str, package: str) -> bool:
    """Return whether a package may have the programs of another: itself, or one that requires it."""
    if package == "r-base":
        return name == "r" or name.startswith(("r-", "bioconductor-"))
    if package in ("bash", "sed", "gawk", "make"):
        return True  # every machine has them
    return package in name or name in ("conda", "mamba", "jupyter", "jupyterlab", "notebook")
