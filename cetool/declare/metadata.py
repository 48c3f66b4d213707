"""What a script says about itself: the environment that it needs and how it runs, whichever dialect says it."""

from __future__ import annotations

from importlib import import_module

from cetool.base.errors import MetadataError
from cetool.base.urls import check_hosts
from cetool.base.values import Value
from cetool.declare.blocks import PEP723, find_block, near_miss, near_miss_advice, read_block
from cetool.declare.languages import language_of
from cetool.declare.requirements import Requirements
from cetool.declare.run_with import Choice, choose_program
from cetool.declare.source import Script, foreign_text, is_notebook, is_url

#: The dialect of a script whose environment comes from a file of its own.
ENVIRONMENT_FILE = "environment.yml"
#: Reads notebooks: imported for one only.
_NOTEBOOK = "cetool.declare.dialects.notebook"
_HOSTS = "In a password write %2F, %5C, %3F and %23 for them; take out a colon that no port follows."


class ScriptMetadata(Value):
    """What was read from a script, or a notebook."""

    #: ``conda execute``, ``script`` (PEP 723), ``conda-script`` or ``environment.yml``.
    dialect: str
    #: The absolute path of the script.
    path: str
    #: The first and the last line of the block; None where it is in a file of its own.
    lines: tuple[int, int] | None
    requirements: Requirements
    #: The words of the command before the script's path. None with an entry point, and where nothing says which.
    run_with: tuple[str, ...] | None
    #: conda-script's command, not yet interpreted.
    entrypoint: str | None = None
    #: The number of the notebook's code cell in which the lines are counted.
    cell: int | None = None
    #: The notebook's language, a kernel for which is among the requirements, and perhaps the name of a kernel.
    language: str | None = None
    kernel: str | None = None
    #: What ``run_with`` was chosen by, and why it was not: see :class:`~cetool.declare.run_with.Choice`.
    chosen: str = "declared"
    undecided: str = ""

    @property
    def choice(self) -> Choice:
        """The program that runs the script."""
        return Choice(self.run_with, self.chosen, self.undecided)

    def run_by(self, choice: Choice) -> ScriptMetadata:
        """The same, run by another program."""
        return self._replace(run_with=choice.words, chosen=choice.by, undecided=choice.reason)


def read_metadata(source: Script, platform: str | None = None) -> ScriptMetadata:
    """The metadata in a script's one comment block, or a notebook's, as they are on a platform (None: this one).

    Raises MetadataError, naming file and line, where they are wrong.
    """
    with foreign_text(is_url(source.name)):
        metadata = _read_metadata(source, platform)
    try:
        for text in metadata.requirements.texts:
            if ":" in text:
                check_hosts(text)
    except ValueError as error:
        where = source.at(None if metadata.lines is None else metadata.lines[0])
        raise MetadataError(str(error), code="url-invalid", where=where, hint=_HOSTS) from None
    return metadata


def _read_metadata(source: Script, platform: str | None) -> ScriptMetadata:
    if is_notebook(source):
        found: ScriptMetadata = import_module(_NOTEBOOK).read_notebook_metadata(source, platform)
        return found
    block = find_block(source)
    if block is None:
        raise nothing_found(source)
    requirements, run_with, entrypoint = read_block(block, source, platform)
    if requirements.overlay is not None:
        requirements.refuse_packages(source.at(block.first))
    lines = (block.first, block.last)
    metadata = ScriptMetadata(block.dialect, str(source.path), lines, requirements, run_with, entrypoint)
    if run_with is None and entrypoint is None:
        return metadata.run_by(choose_program(source, requirements, python=block.dialect == PEP723))
    return metadata


def metadata_from_file(source: Script, requirements: Requirements) -> ScriptMetadata:
    """The metadata of a script that has none of its own and runs in what an environment file asks for.

    Raises UsageError for a notebook that has some.
    """
    if is_notebook(source):
        found: ScriptMetadata = import_module(_NOTEBOOK).notebook_in_file_environment(source, requirements)
        return found
    metadata = ScriptMetadata(ENVIRONMENT_FILE, str(source.path), None, requirements, None)
    return metadata.run_by(choose_program(source, requirements))


def nothing_found(source: Script) -> MetadataError:
    """The error for a script without a block, with the lines that would do."""
    comment = language_of(source).comment
    hint = (
        "Add these lines, with what it needs (`cetool init` does), "
        "or name a file that does with --env-file environment.yml:\n"
        f"{comment} conda execute\n{comment} env:\n{comment}  - python >=3"
    )
    close = near_miss(source)
    if close is not None:
        hint = f"{near_miss_advice(source, close)} {hint}"
    return MetadataError(
        "the script does not say what it needs", code="block-missing", where=source.at(close), hint=hint
    )
