"""Shells in an environment: interactive ones, and code that changes the environment of a running shell.

The user's start-up files may change the PATH and activate other environments, so a new shell activates this one last:
bash by ``--rcfile``, zsh by ``ZDOTDIR``, fish by ``--init-command``, every other by ``ENV``. The files for this are
named by their content, so that one works for every such shell.

A running shell evaluates :func:`shell_code`. Everything that depends on its environment is computed before, so that the
code is plain assignments; a function keeps the previous values, and ``cetool overlay deactivate`` calls it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cetool.base.codec import canonical_json, sha256_of
from cetool.base.errors import StoreError
from cetool.base.files import put_file
from cetool.launch.activation import Activation, activated_environ
from cetool.launch.process import Command, look_in
from cetool.store.scripts import Held, ScriptStore
from cetool.warm.environ import ON_WINDOWS

#: Shells for which cetool can write such code.
SHELLS = ("bash", "zsh", "fish")
#: The function that undoes :func:`shell_code`.
UNDO = "cetool_overlay_deactivate"
#: Variables that an environment activated by the user's files leaves behind.
_FOREIGN = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "CONDA_PROMPT_MODIFIER")
#: Safe in any prompt: characters that no shell expands.
_UNSAFE = re.compile(r"[^A-Za-z0-9._+,=-]+")
_LONGEST_LABEL = 40

# For bash, zsh and other POSIX shells. @DROP@: a call for each of our directories; @DIRS@: all of them for PATH;
# @EXPORTS@ and @SOURCES@: whole lines.
_ACTIVATE = """\
__cetool_drop() {
  __cetool_path=:${PATH:-}:
  while :; do
    case $__cetool_path in
    *:"$1":*) __cetool_path=${__cetool_path%%:"$1":*}:${__cetool_path#*:"$1":} ;;
    *) break ;;
    esac
  done
  __cetool_path=${__cetool_path#:}
  PATH=${__cetool_path%:}
}
# what was activated meanwhile is not active in here
if [ -n "${VIRTUAL_ENV:-}" ]; then __cetool_drop "$VIRTUAL_ENV/bin"; fi
case ${CONDA_PREFIX:-/}/bin in
//bin | /bin | /usr/bin | /usr/local/bin) ;;
*) __cetool_drop "$CONDA_PREFIX/bin" ;;
esac
unset @FOREIGN@
@DROP@
PATH=@DIRS@${PATH:+:$PATH}
export PATH
unset -f __cetool_drop
unset __cetool_path
@EXPORTS@
@SOURCES@
"""
_BASH_PROMPT = """\
__cetool_prompt() { case $PS1 in *'@HINT@'*) ;; *) PS1='@HINT@ '$PS1 ;; esac; }
PROMPT_COMMAND="${PROMPT_COMMAND:+$PROMPT_COMMAND
}if type __cetool_prompt >/dev/null 2>&1; then __cetool_prompt; fi"
"""
_ZSH_PROMPT = """\
__cetool_prompt() {
  case $PROMPT in
  *'@HINT@'*) ;;
  *) PROMPT='@HINT@ '$PROMPT ;;
  esac
}
precmd_functions+=(__cetool_prompt)
"""
_SH_PROMPT = "PS1='@HINT@ '${PS1-'$ '}\n"
_FISH = """\
function __cetool_drop
  while set -l at (contains -i -- $argv[1] $PATH)
    set -e PATH[$at]
  end
end
if set -q VIRTUAL_ENV
  __cetool_drop $VIRTUAL_ENV/bin
end
if set -q CONDA_PREFIX; and not contains -- $CONDA_PREFIX/bin /bin /usr/bin /usr/local/bin
  __cetool_drop $CONDA_PREFIX/bin
end
@DROP@
set -gx PATH @DIRS@ $PATH
functions -e __cetool_drop
@EXPORTS@
if status is-interactive
  functions -c fish_prompt __cetool_prompt
  function __cetool_status
    return $argv[1]
  end
  function fish_prompt
    set -l before $status
    printf %s '@HINT@ '
    __cetool_status $before
    __cetool_prompt
  end
end
"""


@dataclass(frozen=True)
class UserShell:
    """The user's shell: ``bash``, ``zsh``, ``fish``, or ``sh`` for any other, and its path."""

    kind: str
    program: str


@dataclass(frozen=True)
class Opening:
    """The command that becomes a shell, and what it holds in use (None if it reads no file of ours)."""

    command: Command
    held: Held | None = None


def find_user_shell(environ: Mapping[str, str]) -> UserShell:
    """Return the shell in ``SHELL`` if it is one of :data:`SHELLS`, else ``sh``."""
    if ON_WINDOWS:
        return UserShell("cmd", environ.get("COMSPEC") or "cmd.exe")
    named = environ.get("SHELL", "")
    kind = os.path.basename(named)
    if kind in SHELLS and os.path.isabs(named) and os.path.isfile(named) and os.access(named, os.X_OK):
        return UserShell(kind, named)
    return UserShell("sh", look_in((environ.get("PATH") or os.defpath).split(os.pathsep), "sh", []) or "/bin/sh")


def open_shell(
    shell: UserShell, activation: Activation, environ: Mapping[str, str], label: str, store: ScriptStore
) -> Opening:
    """Return the command that becomes an interactive shell in the environment.

    ``environ`` is the caller's environment, ``label`` is shown in the prompt; ``store`` keeps the start-up files.
    Raises StoreError if they cannot be written.
    """
    hint = f"(cetool:{(_UNSAFE.sub('_', label) or 'shell')[:_LONGEST_LABEL]})"
    if ON_WINDOWS:  # written from documentation, untested
        variables, steps = activated_environ(activation, environ)
        variables["PROMPT"] = f"{hint} {environ.get('PROMPT', '$P$G')}"
        return Opening(Command(shell.program, (shell.program,), variables, steps))
    if shell.kind == "fish":  # fish cannot source other shells' scripts: they run before, and their variables stay
        variables, steps = activated_environ(activation, environ)
        started = (shell.program, "--init-command", _fish_text(activation, variables, hint))
        return Opening(Command(shell.program, started, variables, steps))
    variables, steps = activated_environ(activation._replace(scripts=()), environ)
    body = _posix_text(activation, variables)
    if shell.kind == "zsh":
        held = _keep(store, _zsh_files(body, variables, hint))
        variables["ZDOTDIR"] = str(held.path)
        return Opening(Command(shell.program, (shell.program, "-i"), variables, steps), held)
    if shell.kind == "bash":
        first = "if [ -r ~/.bashrc ]; then . ~/.bashrc; fi\n"
        held = _keep(store, {"bashrc": first + body + _BASH_PROMPT.replace("@HINT@", hint)})
        words = (shell.program, "--rcfile", str(held.path / "bashrc"), "-i")
        return Opening(Command(shell.program, words, variables, steps), held)
    held = _keep(store, {"shrc": _before("ENV", variables) + body + _SH_PROMPT.replace("@HINT@", hint)})
    variables["ENV"] = str(held.path / "shrc")
    return Opening(Command(shell.program, (shell.program, "-i"), variables, steps), held)


def open_reading_shell(
    shell: UserShell, activation: Activation, environ: Mapping[str, str], store: ScriptStore
) -> Opening:
    """Return the command that becomes a shell reading commands from standard input, which is not a terminal."""
    variables, steps = activated_environ(activation, environ)
    argv: tuple[str, ...] = (shell.program,)
    held = None
    if shell.kind == "fish":
        argv += ("--init-command", _fish_text(activation, variables, ""))
    elif shell.kind == "zsh":
        variables, steps = activated_environ(activation._replace(scripts=()), environ)
        held = _keep(store, _zsh_files(_posix_text(activation, variables), variables, ""))
        variables["ZDOTDIR"] = str(held.path)
    elif shell.kind == "bash" and variables.get("BASH_ENV"):
        body = _posix_text(activation._replace(scripts=()), variables)
        held = _keep(store, {"bash_env": _before("BASH_ENV", variables) + body})
        variables["BASH_ENV"] = str(held.path / "bash_env")
    return Opening(Command(shell.program, argv, variables, steps), held)


def _set_by(activation: Activation, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables to set once more: the environment's, and conda's own."""
    names = dict.fromkeys([*(name for name, _ in activation.set), "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL"])
    return [(name, environ[name]) for name in names if name.isascii() and name.isidentifier() and name in environ]


def _posix_text(activation: Activation, environ: Mapping[str, str]) -> str:
    """Return code that activates the environment in a POSIX shell in any state; ``environ`` is activated already."""
    quote = shlex.quote
    lines = {
        "@FOREIGN@": " ".join(_FOREIGN),
        "@DROP@": "\n".join(f"__cetool_drop {quote(entry)}" for entry in activation.path),
        "@DIRS@": quote(os.pathsep.join(activation.path)),
        "@EXPORTS@": "\n".join(f"export {name}={quote(value)}" for name, value in _set_by(activation, environ)),
        "@SOURCES@": "\n".join(map(_step, activation.scripts)),
    }
    return _filled(_ACTIVATE, lines)


def _fish_text(activation: Activation, environ: Mapping[str, str], hint: str) -> str:
    unset = [f"set -e {name}" for name in _FOREIGN]
    lines = {
        "@DROP@": "\n".join(f"__cetool_drop {_fish_quote(entry)}" for entry in activation.path),
        "@DIRS@": " ".join(map(_fish_quote, activation.path)),
        "@EXPORTS@": "\n".join(
            [*unset, *(f"set -gx {name} {_fish_quote(value)}" for name, value in _set_by(activation, environ))]
        ),
        "@HINT@": hint,
    }
    return _filled(_FISH, lines)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Replace the marks in a template, all at once, so that marks in values stay."""
    return re.sub(r"@[A-Z]+@", lambda found: values[found[0]], template)


def _before(name: str, environ: Mapping[str, str]) -> str:
    """Return code that restores the variable by which the shell was started, and reads the file that it names."""
    value = environ.get(name)
    if not value:
        return f"unset {name}\n"
    # the shell would expand variables in it; other expansions are left out
    file = shlex.quote(os.path.expanduser(os.path.expandvars(value)))
    return f"export {name}={shlex.quote(value)}\nif [ -r {file} ]; then . {file}; fi\n"


def _zsh_files(body: str, environ: Mapping[str, str], hint: str) -> dict[str, str]:
    """Return ``.zshenv`` and ``.zshrc``, each of which reads the user's own."""
    own = environ.get("ZDOTDIR")
    own_first = "unset ZDOTDIR" if own is None else f"export ZDOTDIR={shlex.quote(own)}"
    read = 'if [[ -r ${ZDOTDIR:-$HOME}/%s ]]; then . "${ZDOTDIR:-$HOME}/%s"; fi'
    # a .zshenv may set another ZDOTDIR for the user's other files
    env = f"""\
__cetool_dir=$ZDOTDIR
{own_first}
{read % (".zshenv", ".zshenv")}
if [[ -o interactive ]]; then
__cetool_own=${{ZDOTDIR-}} __cetool_has=${{+ZDOTDIR}}
export ZDOTDIR=$__cetool_dir
else
{body}
unset __cetool_dir
fi
"""
    # /etc/zshrc of some systems puts the history next to .zshrc
    rc = f"""\
if [[ ${{HISTFILE-}} == $__cetool_dir/* ]]; then HISTFILE=${{__cetool_own:-$HOME}}/${{HISTFILE:t}}; fi
if (( __cetool_has )); then export ZDOTDIR=$__cetool_own; else unset ZDOTDIR; fi
unset __cetool_dir __cetool_own __cetool_has
{read % (".zshrc", ".zshrc")}
{body}
{_ZSH_PROMPT.replace("@HINT@", hint)}"""
    return {".zshenv": env, ".zshrc": rc}


def _keep(store: ScriptStore, files: Mapping[str, str]) -> Held:
    """Keep these files in a directory named by their content, so that no process changes one in use; hold it in use."""
    digest = sha256_of(canonical_json(dict(files)).encode())
    held = store.hold_cache_dir(store.directory / "shell" / digest)
    try:
        for name, text in files.items():
            put_file(held.path / name, os.fsencode(text), mode=0o600, sync=False)  # another shell may be reading it
    except OSError as error:
        held.release()
        raise StoreError(
            f"cannot write the shell's start-up file in {held.path}: {error.strerror or error}",
            code="cache-not-writable",
            hint="Check that directory, or set CETOOL_CACHE_DIR to another one.",
        ) from error
    return held


# --- for eval ---------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: Set by shells themselves.
_OWN = frozenset(("_", "SHLVL", "PWD", "OLDPWD", "PS1"))


@dataclass(frozen=True)
class ShellChange:
    """A change of a shell's environment."""

    #: Its variables now, and afterwards.
    before: Mapping[str, str]
    after: Mapping[str, str]
    #: Scripts to source and variables to set afterwards.
    steps: Sequence[str] = ()
    #: Scripts to source before it is undone.
    ending: Sequence[str] = ()
    #: Shown in the prompt.
    label: str = ""

    @property
    def names(self) -> list[str]:
        """The variables that change."""
        names = sorted(self.before.keys() | self.after.keys())
        changed = [name for name in names if self.before.get(name) != self.after.get(name)]
        return [name for name in changed if _NAME.match(name) and name not in _OWN]


def shell_code(shell: str, change: ShellChange) -> str:
    """Return the code for ``shell``, one of :data:`SHELLS`."""
    return _fish(change) if shell == "fish" else _posix(change)


def _posix(change: ShellChange) -> str:
    label = shlex.quote(f"({_UNSAFE.sub('_', change.label)}) ")
    lines = [_assigned(name, change.after) for name in change.names]
    lines += [_step(step) for step in change.steps]
    lines += [
        'if [ -n "${PS1-}" ]; then __cetool_ps1=$PS1; PS1=' + label + "$PS1; fi",
        f"{UNDO}() {{",
        *(f"  {_step(step)}" for step in change.ending),
        *(f"  {_assigned(name, change.before)}" for name in change.names),
        '  if [ -n "${__cetool_ps1+x}" ]; then PS1=$__cetool_ps1; unset __cetool_ps1; fi',
        f"  unset -f {UNDO}",
        "  hash -r 2>/dev/null || :",
        "}",
        "hash -r 2>/dev/null || :",
    ]
    return "\n".join(lines) + "\n"


def _assigned(name: str, values: Mapping[str, str]) -> str:
    return f"export {name}={shlex.quote(values[name])}" if name in values else f"unset {name}"


def _step(step: str) -> str:
    if not os.path.isabs(step):
        name, _, value = step.partition("=")
        return f"export {name}={shlex.quote(value)}"
    return f"if [ -r {shlex.quote(step)} ]; then . {shlex.quote(step)}; fi"


def _fish(change: ShellChange) -> str:
    """Return code for fish, which cannot source other shells' scripts: ``after`` includes their effects."""
    lines = [_fish_assigned(name, change.after) for name in change.names]
    label = _fish_quote(f"({_UNSAFE.sub('_', change.label)}) ")
    lines += [
        "if status is-interactive; and functions -q fish_prompt",
        "  functions -e __cetool_overlay_prompt",
        "  functions -c fish_prompt __cetool_overlay_prompt",
        f"  function fish_prompt; printf %s {label}; __cetool_overlay_prompt; end",
        "end",
        f"function {UNDO}",
        *(f"  {_fish_assigned(name, change.before)}" for name in change.names),
        "  if functions -q __cetool_overlay_prompt",
        "    functions -e fish_prompt",
        "    functions -c __cetool_overlay_prompt fish_prompt",
        "    functions -e __cetool_overlay_prompt",
        "  end",
        f"  functions -e {UNDO}",
        "end",
    ]
    # older versions of fish join the lines with blanks in eval, so end each statement
    return ";\n".join(lines) + "\n"


def _fish_assigned(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        return f"set -e {name}"
    if name == "PATH":
        return f"set -gx PATH {' '.join(map(_fish_quote, values[name].split(os.pathsep)))}"
    return f"set -gx {name} {_fish_quote(values[name])}"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
