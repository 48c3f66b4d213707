"""Read and change ``config.yaml``: each value has its line, and a change touches nothing else.

ruamel.yaml is imported only for changes and for files that :mod:`cetool.base.plain_yaml` does not read.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cetool.base.errors import ConfigError, Location
from cetool.base.files import update_file
from cetool.base.limits import SETTINGS, LimitError, check_yaml, in_words
from cetool.base.ownership import OwnershipError, make_private_dirs, read_own_file
from cetool.base.plain_yaml import settings_of

#: A larger file is not a settings file; it was named by mistake.
_LARGEST = SETTINGS
_MOST_NODES = 20_000
_BOM = b"\xef\xbb\xbf"
_FIX = "Fix the file or remove it: every setting has a default (`cetool config list`)."


def read_config_file(path: Path, *, trust: bool = False) -> dict[str, tuple[object, Location]]:
    """Return the file's values as plain Python values, each with its place; empty if the file does not exist.

    Raises ConfigError, with the line, for a file that cannot be read, is not YAML, or is not one mapping without
    duplicates; and, unless ``trust``, for a file that another user could have written: it can turn protections off.
    """
    raw = _read(path, trust=trust)
    return {} if raw is None else _parse(raw, path)


def write_setting(path: Path, key: str, value: object) -> None:
    """Set one key to a plain value (string, number, boolean, list of strings); create a missing file.

    Comments, order and style of everything else stay. The file is replaced in one step with the same mode, also behind
    a symbolic link. Raises ConfigError if the file is malformed or cannot be written.
    """
    _change(path, key, value)


def remove_setting(path: Path, key: str) -> bool:
    """Remove one key; return whether it was set. Raises ConfigError as :func:`write_setting` does."""
    if key not in read_config_file(path):
        return False
    _change(path, key, None)
    return True


# --- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path, *, trust: bool = False) -> bytes | None:
    place = Location(str(path))
    try:
        if path.is_dir():
            raise ConfigError("the configuration file is a directory", where=place)
        return read_own_file(path, limit=_LARGEST, trust=trust)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OwnershipError as error:
        raise error.turned_into(ConfigError, where=place) from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            if os.path.realpath(path) == os.devnull:
                return None
            raise ConfigError("the configuration file is not a regular file", where=place) from None
        if error.errno == errno.EFBIG:
            raise ConfigError(
                f"the configuration file is larger than {in_words(_LARGEST)}", where=place, hint=_FIX
            ) from None
        raise ConfigError(f"cannot read the configuration file: {error.strerror}", where=place) from None


def load_mapping(raw: bytes, place: str, *, form: str, hint: str) -> Any:
    """Return the mapping in a YAML file, as ruamel.yaml's round trip reads it with lines and comments of keys.

    Raises ConfigError with the line for text that is not YAML, or not a mapping; ``form`` is the message for that.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    line: int | None = None
    try:
        text = raw.decode("utf-8-sig")
        check_yaml(text, nodes=_MOST_NODES)
        data = YAML(typ="rt").load(text)
    except UnicodeDecodeError as error:
        problem, line = "not UTF-8 text", raw.count(b"\n", 0, error.start) + 1
    except LimitError as error:
        problem, line = f"cannot read the file: {error}", error.line
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        # later lines advise programmers who use ruamel.yaml; the value of a duplicate key may hold a secret
        problem = f"not valid YAML: {str(error.problem).strip().splitlines()[0].split(' with value ')[0]}"
    except YAMLError as error:  # from the parser's reader, with the position of the character
        line = text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        problem = "not valid YAML: invalid character"
    except Exception as error:  # the parser also raises other exceptions than its own
        problem = f"not valid YAML: {str(error).partition(chr(10))[0][:200] or type(error).__name__}"
    else:
        if data is None or isinstance(data, Mapping):
            return {} if data is None else data
        problem, line = form, 1
    raise ConfigError(problem, where=Location(place, line), hint=hint)


def line_of(mapping: Any, key: object) -> int | None:
    """Return the line of a key of such a mapping; None if it was merged in by ``<<``."""
    try:
        return int(mapping.lc.key(key)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return None


def _load(raw: bytes, path: Path) -> Any:
    return load_mapping(raw, str(path), form="settings must be lines of the form `key: value`", hint=_FIX)


def _parse(raw: bytes, path: Path) -> dict[str, tuple[object, Location]]:
    settings = settings_of(raw.removeprefix(_BOM).decode(errors="replace"))
    if settings is not None:
        return {key: (setting.value, Location(str(path), setting.line)) for key, setting in settings.items()}
    data = _load(raw, path)
    return {str(key): (plain_value(value), Location(str(path), line_of(data, key))) for key, value in data.items()}


def plain_value(value: Any) -> object:
    """Return a value from a YAML file without ruamel's own types, which carry comments and turn anchored booleans into
    numbers.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if type(value).__name__ == "ScalarBoolean":
        return bool(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


# --- changing -------------------------------------------------------------------------------------------------------


def _change(path: Path, key: str, value: object) -> None:
    """Set the key, or with None remove it; repeat that if another process writes the file meanwhile."""
    if path.exists() and not path.is_file():
        raise ConfigError("the configuration file is not a regular file", where=Location(str(path)))
    _read(path)
    make_private_dirs(Path(os.path.realpath(path)).parent)
    try:
        update_file(path, lambda raw: _changed(raw or b"", path, key, value), mode=None if path.exists() else 0o600)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"cannot write the configuration file: {reason}", code="write-failed", where=Location(str(path))
        ) from None


def _changed(raw: bytes, path: Path, key: str, value: object) -> bytes:
    wanted: dict[str, object] = {name: entry[0] for name, entry in _parse(raw, path).items() if name != key}
    if value is not None:
        wanted[key] = value
    text = raw.decode("utf-8-sig")
    for edit in (_edited, _rewritten):
        changed = edit(text, key, value)
        if changed is not None and _says(changed, wanted, path):
            newline = "\r\n" if "\r\n" in text else "\n"
            changed = changed.replace("\r\n", "\n").replace("\n", newline)
            return (_BOM if raw.startswith(_BOM) else b"") + changed.encode()
    raise ConfigError(
        f"cannot change {key} in this file",
        code="write-failed",
        where=Location(str(path)),
        hint="Edit it by hand.",
    )


def _says(text: str, wanted: Mapping[str, object], path: Path) -> bool:
    """Return whether the text reads as exactly these settings."""
    try:
        return {name: entry[0] for name, entry in _parse(text.encode(), path).items()} == wanted
    except ConfigError:
        return False


def _edited(text: str, key: str, value: object) -> str | None:
    """Return the text with one entry replaced, added or removed; None if the form of the text does not allow that."""
    from ruamel.yaml import YAML

    root: Any = YAML(typ="rt").compose(text)
    if root is None:
        return _with_newline(text) + ("" if value is None else _render(key, value, 0, flow=False))
    if getattr(root, "flow_style", True):
        return None
    entry = next(((name, node) for name, node in root.value if name.value == key), None)
    column = root.start_mark.column
    if entry is None:
        return _with_newline(text) + ("" if value is None else _render(key, value, column, flow=False))
    start = entry[0].start_mark.index
    # an empty value has no position of its own
    end = max(_end(entry[1]), text.index(":", entry[0].end_mark.index) + 1)
    if value is None:
        line_end = text.find("\n", max(start, end - 1))
        return text[: start - column] + ("" if line_end < 0 else text[line_end + 1 :])
    rendered = _render(key, value, column, flow=getattr(entry[1], "flow_style", None) is not False).strip()
    if text[start:end].endswith("\n"):
        rendered += "\n"
    return text[:start] + rendered + text[end:]


def _end(node: Any) -> int:
    """Return the index after a node's last character; a block collection's own mark is after the comments that follow
    it.
    """
    if not isinstance(node.value, list) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _render(key: str, value: object, column: int, *, flow: bool) -> str:
    """Return ``key: value`` in YAML, each line indented by ``column`` columns."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=4, offset=2)
    if flow and isinstance(value, list):
        yaml.default_flow_style = None  # collections of scalars on one line
        yaml.representer.default_flow_style = None
    stream = io.StringIO()
    yaml.dump({key: value}, stream)
    lines = stream.getvalue().splitlines()
    return "".join(f"{' ' * column}{line}\n" for line in lines)


def _rewritten(text: str, key: str, value: object) -> str:
    """Return the text as ruamel.yaml's round trip writes it, for rare forms (``{a: b}``, anchors)."""
    from ruamel.yaml import YAML

    data = YAML(typ="rt").load(text) or {}
    if value is None:
        data.pop(key, None)
    else:
        data[key] = value
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()
