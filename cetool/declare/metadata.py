"""What a script says about itself: the environment that it needs and how it runs, whichever dialect says it."""

from __future__ import annotations

from cetool.base.errors import MetadataError
from cetool.base.urls import check_hosts
from cetool.base.values import Value
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, PEP723, Block, find_block, near_miss, near_miss_advice
from cetool.declare.environment import Requirements
from cetool.declare.run_with import Choice, choose_program
from cetool.declare.source import Script, foreign_text, is_notebook, is_url

__all__ = ["CONDA_EXECUTE", "CONDA_SCRIPT", "ENVIRONMENT_FILE", "PEP723", "ScriptMetadata"]
__all__ += ["metadata_from_file", "read_metadata"]

#: The dialect of a script whose environment comes from a file of its own.
ENVIRONMENT_FILE = "environment.yml"
_HOSTS = "In a password write %2F, %5C, %3F and %23 for them; take out a colon that no port follows."


class ScriptMetadata(Value):
    """What was read from a script.

    ``dialect`` is ``conda execute``, ``script`` (PEP 723), ``conda-script`` or ``environment.yml``; ``path`` the
    script's absolute path; ``lines`` the first and last line of the block. The script runs by ``run_with`` (words
    before its path), or by ``entrypoint`` (conda-script's command, not yet interpreted); the other one is None. What
    ``run_with`` was chosen by is told by ``chosen`` (see :class:`~cetool.declare.run_with.Choice`); where nothing says
    which program it is, both are None, and ``undecided`` says why.

    Of a notebook both are None: it has a ``language``, a kernel for which is among the requirements, and perhaps the
    name of a ``kernel``; ``cell`` is the number of the code cell that the lines are counted in.
    """

    dialect: str
    path: str
    lines: tuple[int, int] | None
    requirements: Requirements
    run_with: tuple[str, ...] | None
    entrypoint: str | None = None
    cell: int | None = None
    language: str | None = None
    kernel: str | None = None
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
        from cetool.declare.dialects.notebook import read_notebook_metadata

        return read_notebook_metadata(source, platform)
    block = find_block(source)
    if block is None:
        raise nothing_found(source)
    requirements, run_with, entrypoint = read_block(block, source, platform)
    if requirements.overlay is not None:
        from cetool.declare.overlay import refuse_packages

        refuse_packages(requirements.packages, source.at(block.first))
    metadata = ScriptMetadata(
        dialect=block.dialect,
        path=str(source.path),
        lines=(block.first, block.last),
        requirements=requirements,
        run_with=run_with,
        entrypoint=entrypoint,
    )
    if run_with is None and entrypoint is None:
        return metadata.run_by(choose_program(source, requirements, python=block.dialect == PEP723))
    return metadata


def metadata_from_file(source: Script, requirements: Requirements) -> ScriptMetadata:
    """The metadata of a script that has none of its own and runs in what an environment file asks for.

    Raises UsageError for a notebook that has some.
    """
    if is_notebook(source):
        from cetool.declare.dialects.notebook import notebook_in_file_environment

        return notebook_in_file_environment(source, requirements)
    metadata = ScriptMetadata(ENVIRONMENT_FILE, str(source.path), None, requirements, None)
    return metadata.run_by(choose_program(source, requirements))


def read_block(
    block: Block, source: Script, platform: str | None = None
) -> tuple[Requirements, tuple[str, ...] | None, str | None]:
    """The requirements, the command and the entry point that a block states; None for those that it does not.

    Each dialect's reader brings its own parser, so only the one needed is imported.
    """
    if block.dialect == CONDA_EXECUTE:
        from cetool.declare.dialects.conda_execute import read_conda_execute

        return (*read_conda_execute(block, source), None)
    if block.dialect == PEP723:
        from cetool.declare.dialects.pep723 import read_pep723

        return (*read_pep723(block, source, platform=platform), None)
    from cetool.declare.dialects.conda_script import read_conda_script

    return read_conda_script(block, source, platform=platform)


def nothing_found(source: Script) -> MetadataError:
    """The error for a script without a block, with the lines that would do."""
    from cetool.declare.languages import language_of

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
