"""Split a match spec into its fields, as conda 26 reads it and CEP 29 defines it, and check them by CEP 26.

py-rattler reads several specs differently from conda (``pkg=1.8.``, ``pkg ==1.8.* *``, ``pkg >1.8.*``) and accepts
names, versions and builds that no package can have. So it gets specs in the one form on which both agree.
docs/reference/specification.md lists the deviations from CEP 29.
"""

from __future__ import annotations

from typing import NoReturn

from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.channels import check_channel_name
from cetool.declare.platforms import PLATFORMS

#: CEP 26: the most characters of a package's name, a version and a build string.
MAX_NAME = MAX_VERSION = MAX_BUILD = 64
#: Virtual packages (CEP 30, CEP 46, and conda's own), which describe the machine and cannot be installed.
VIRTUAL_PACKAGES = (
    *("__archspec", "__conda", "__cuda", "__cuda_arch", "__glibc"),
    *("__linux", "__musl", "__osx", "__unix", "__win"),
)
#: Names of conda packages, in lower case (CEP 26): no two separators in a row.
PACKAGE_NAME = pattern(r"(?!.*[._-][._-])[a-z0-9_][a-z0-9_.-]{0,63}")
#: Fields in brackets other than version and build.
FIELDS = (
    *("build_number", "channel", "extras", "flags", "fn", "license", "license_family", "md5", "sha256", "subdir"),
    *("track_features", "url", "when"),
)

_LISTS = ("extras", "flags")
_SUBDIR = pattern(r"[a-z0-9]+-[a-z0-9]+")
_VERSION = pattern(r"(?:[0-9]+!)?[a-z0-9_.+]+")
_BUILD = pattern(r"[A-Za-z0-9_.+*]+")
_BUILD_NUMBER = pattern(r"(==|!=|>=|<=|[<>=])?\s*([0-9]{1,18})")
_DOTTED_NUMBERS = pattern(r"[0-9]+(?:\.[0-9]+)+(?:\.?\*)?")
_NAME = pattern(r"[^\s=<>!~(]+")
_CLAUSE = pattern(r"\s*(===?|[~!<>]=|[=<>])?\s*((?:[0-9]+!)?[^\s,|()=<>!~]+)")
_PAIR = pattern(r"""\s*([A-Za-z0-9_-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|\[([^\[\]]*)\]|([^\s,'"\[\]]+))\s*(,|\Z|(?=\s))""")
_MOST_NESTED = 20
_HEX = {"md5": pattern(r"[0-9a-fA-F]{32}"), "sha256": pattern(r"[0-9a-fA-F]{64}")}
_UNKNOWN = {
    "build_string": "write build= instead",
    "features": "no engine supports it",
    "namespace": "conda has no such field",
    **dict.fromkeys(("file_name", "filename"), "write fn= instead"),
    **dict.fromkeys(("optional", "target"), "every declared package is installed"),
}


class Fields(Value):
    """The fields of a match spec."""

    name: str
    #: A version expression without blanks, with operators and literals that all engines read alike.
    version: str | None = None
    build: str | None = None
    channel: str | None = None
    #: Pairs of :data:`FIELDS`, in that order, lists joined by commas.
    others: tuple[tuple[str, str], ...] = ()

    def get(self, key: str) -> str | None:
        """Return the value of one of the other fields."""
        return dict(self.others).get(key)

    def text(self, *without: str) -> str:
        """Return the spec in the form that py-rattler reads unambiguously: all in brackets, without some fields."""
        found = [("version", self.version), ("build", self.build), ("channel", self.channel), *self.others]
        parts = []
        for key, value in found:
            if value is not None and key not in without:
                mark = "'" if '"' in value else '"'
                parts.append(f"{key}=[{value}]" if key in _LISTS else f"{key}={mark}{value}{mark}")
        return f"{self.name}[{', '.join(parts)}]" if parts else self.name


def read_fields(spec: str) -> Fields:
    """Split a spec that is not a URL. Raises ValueError with the reason, for a message."""
    text, others = _brackets(spec)
    if "://" in text and "::" not in text:  # not quoted: it may contain a password
        raise ValueError("write a package's URL alone, or a channel's URL followed by :: and a package name")
    if "(" in text and text.partition("(")[2].lstrip().startswith(("optional", "target")):
        raise ValueError("'optional' and 'target' are not fields of a match spec: every declared package is installed")
    *before, text = text.rsplit(":", 2)
    # CEP 29: a text between the colons is a namespace, which is ignored
    channel = before[0].strip() if len(before) == 2 else ""
    if "::" in channel:
        raise ValueError("it contains '::' twice")
    if len(before) == 1 and "/" in before[0]:  # no namespace has one: the channel would be ignored
        raise ValueError(f"a channel is followed by two colons: write {before[0].strip()}::{text.strip()}")
    channel, subdir = _split_subdir(channel)
    named = _NAME.match(text.strip())
    if named is None:
        raise ValueError("it has no package name")
    name = named[0].lower()
    check_name(name)
    rest = text.strip()[named.end() :]
    # conda ignores an = without a version
    version, build = (None, None) if rest == "=" or not rest.strip() else _version_and_build(rest)
    if "version" in others:
        version, end = _version(others["version"], 0, spaced=True)
        if others["version"][end:].strip():
            _refuse_rest(others["version"][:end], others["version"][end:])
    if "build" in others:
        build = _checked_build(others["build"])
    if "channel" in others:
        channel, named_subdir = _split_subdir(others["channel"])
        subdir = named_subdir or subdir
    channel = "" if channel == "*" else channel
    if channel:
        _check_channel(channel)
    if subdir is not None:
        others.setdefault("subdir", subdir)
    pairs = tuple((key, _checked(key, others[key])) for key in FIELDS if key in others and key != "channel")
    return Fields(name, version, build, channel or None, pairs)


def _split_subdir(channel: str) -> tuple[str, str | None]:
    """Split a channel into its name and the platform after its last slash."""
    head, found, tail = channel.rpartition("/")
    return (head, tail) if found and tail in (*PLATFORMS, "noarch") else (channel, None)


def is_read_alike(spec: str) -> bool:
    """Return whether all engines find the same packages for a canonical spec, and ignore no part of it.

    conda and mamba agree only on a channel, a name, a version without parentheses, and a build that is not a regular
    expression.
    """
    if not any(mark in spec for mark in "[(/^"):
        return True
    try:
        fields = read_fields(spec)
    except ValueError:
        return True
    return not (fields.others or "(" in (fields.version or "") or (fields.build or "").startswith("^"))


def check_name(name: str) -> None:
    """Raise ValueError if a package cannot have this name, in lower case (CEP 26)."""
    if not name:
        raise ValueError("it has no package name")
    if len(name) > MAX_NAME:
        raise ValueError(f"a package name has at most {MAX_NAME} characters, this one has {len(name)} (CEP 26)")
    if name in VIRTUAL_PACKAGES or PACKAGE_NAME.fullmatch(name):
        return
    if "*" in name or name.startswith("^"):
        raise ValueError(f"'{name}' is a pattern, not a package name")
    if name.startswith("__"):
        raise ValueError(f"'{name}' is not a virtual package, and names that start with __ cannot be installed")
    if strange := next((char for char in name if not (char.isalnum() or char in "._-")), None):
        raise ValueError(f"'{name}' is not a package name: it contains '{strange}'")
    if name[0] in "._-" and name[0] != "_":
        raise ValueError(f"'{name}' is not a package name: it starts with '{name[0]}' (CEP 26)")
    raise ValueError(f"'{name}' is not a package name: it has two of the characters . _ - in a row (CEP 26)")


def check_file(version: str, build: str) -> None:
    """Raise ValueError if no package file can have this version and build in its name (CEP 26).

    Capital letters are accepted: channels have such files, although no spec can request their versions.
    """
    if strange := next((char for char in build if char in "*^$"), None):
        raise ValueError(f"'{build}' is not a build string: it contains '{strange}' (CEP 26)")
    _check_version(version.lower())
    _checked_build(build)


def _check_channel(channel: str) -> None:
    if "*" in channel:
        raise ValueError("a channel cannot contain wildcards, except * alone")
    if "://" not in channel and not channel.startswith(("/", ".", "~")):
        try:
            check_channel_name(channel)
        except ValueError as error:
            raise ValueError(f"'{channel}' is not a valid channel: {error} (CEP 26)") from None


def _brackets(spec: str) -> tuple[str, dict[str, str]]:
    """Return the text before the brackets, and the fields in them."""
    text, found, inside = spec.partition("[")
    if not found:
        return spec, {}
    if not inside.endswith("]"):
        raise ValueError("its brackets are not closed, or text follows them")
    inside, others, at = inside[:-1], {}, 0
    while inside[at:].strip(" ,"):
        pair = _PAIR.match(inside, at)
        if pair is None:
            _refuse_brackets(inside[at:].strip())
        key = pair[1]
        value = next(group for group in pair.groups()[1:5] if group is not None).strip()
        if key not in FIELDS and key not in ("version", "build", "name"):
            why = _UNKNOWN.get(key)
            raise ValueError(f"'{key}' is not a field of a match spec" + (f": {why}" if why else ""))
        if key in others:
            raise ValueError(f"it contains '{key}' twice")
        if not value or (pair[4] is not None and key not in _LISTS):
            raise ValueError(f"'{key}' has no value" if not value else f"'{key}' is not a list")
        others[key] = value
        at = pair.end()
    if not others:
        raise ValueError("its brackets are empty")
    others.pop("name", None)  # CEP 29: ignored, so that the package is always the one before the brackets
    return text, others


def _refuse_brackets(text: str) -> NoReturn:
    key = text.partition("=")[0].strip()
    if key in _UNKNOWN:
        raise ValueError(f"'{key}' is not a field of a match spec: {_UNKNOWN[key]}")
    if text.startswith("version"):
        raise ValueError(f"write version='{text.removeprefix('version')}'")
    raise ValueError(f"'{text}' in its brackets is not of the form field=value")


def _version_and_build(rest: str) -> tuple[str, str | None]:
    spaced = rest[0].isspace()
    text = rest.strip()
    _, end = _version(text, 0)
    after = text[end:]
    if not after.strip():
        return _version(text, 0)[0], None
    by_sign = after.lstrip().startswith("=")
    build = after.lstrip().removeprefix("=") if by_sign else after
    if not (by_sign or after[0].isspace()) or build.lstrip().startswith(("=", "<", ">", "!", "~")):
        _refuse_rest(text[:end], after)
    build = build.strip()
    if len(build.split()) > 1:
        raise ValueError(f"it has more parts than a name, a version and a build: '{build}'")
    if _DOTTED_NUMBERS.fullmatch(build):
        _refuse_rest(text[:end], build)
    # pkg=1.8=0 is exactly 1.8; pkg =1.8 0 is any 1.8 (CEP 29)
    version = _version(text, 0, spaced=spaced and not by_sign, built=True)[0]
    return version, _checked_build(build)


def _refuse_rest(before: str, rest: str) -> NoReturn:
    both = ",".join("".join(part.split()) for part in (before, rest))
    raise ValueError(f"a comma is missing between '{before.strip()}' and '{rest.strip()}': write {both}")


def _version(text: str, at: int, depth: int = 0, *, spaced: bool = True, built: bool = False) -> tuple[str, int]:
    """Return the version expression at a position, in canonical clauses, and where it ends.

    ``built`` says that a build follows: a single ``=`` directly after the name is then exact.
    """
    if depth > _MOST_NESTED:
        raise ValueError("its parentheses are nested too deeply")
    parts: list[str] = []
    while True:
        start = at + len(text[at:]) - len(text[at:].lstrip())
        if text.startswith("(", start):
            inner, at = _version(text, start + 1, depth + 1)
            if not text.startswith(")", at):
                raise ValueError("a parenthesis in its version is not closed")
            at += 1
            parts.append(f"({inner})")
        else:
            clause = _CLAUSE.match(text, at)
            if clause is None:
                raise ValueError(f"'{text[at:].strip() or text.strip()}' is not a version")
            operator, literal = clause[1] or "", clause[2]
            at = clause.end()
            alone = not parts and not text[at:].lstrip().startswith((",", "|"))
            parts.append(_clause(operator, literal, exact=built and not spaced and alone))
        after = text[at:].lstrip()
        if not after.startswith((",", "|")):
            blank = len(text[at:]) - len(after)
            return "".join(parts), at + (blank if after.startswith(")") else 0)
        parts.append(after[0])
        at = len(text) - len(after) + 1


def _clause(operator: str, literal: str, *, exact: bool) -> str:
    """Return one clause in the form that all engines read alike; ``exact`` says that a single ``=`` means ``==``."""
    if literal.startswith("^") or literal.endswith("$"):
        raise ValueError("a version cannot be a regular expression: write clauses such as >=1.8,<2")
    operator = "==" if operator == "===" else operator
    base = literal.rstrip("*")
    if literal == "*":
        if operator in ("", "=", "=="):
            return "*"
        raise ValueError(f"'{operator}*' is not a version")
    glob = base != literal
    if glob or (operator == "=" and not exact):  # conda reads =1.8. as 1.8.*
        base = base.removesuffix(".")
    _check_version(base)
    if operator == "!=":
        return f"!={base}.*" if glob else f"!={base}"
    if operator in ("", "=", "=="):
        return f"{base}.*" if glob or (operator == "=" and not exact) else f"=={base}"
    if operator == "~=" and (glob or "." not in base):
        raise ValueError(f"'~={literal}' is not a version: '~=' needs one such as ~=1.8")
    if operator in (">", "<=") and glob and not literal.endswith(".*"):
        # conda reads the * as a part of the version that sorts first: 2 matches >2*
        raise ValueError(f"'{operator}{literal}' is not a version: write {operator}{base}")
    return f"{operator}{base}"


def _check_version(base: str) -> None:
    if len(base) > MAX_VERSION:
        raise ValueError(f"a version has at most {MAX_VERSION} characters (CEP 26)")
    if "*" in base:
        raise ValueError(f"a '*' is allowed only at the end of a version, as in {base.partition('*')[0]}*")
    if base != base.lower():
        raise ValueError(f"a version has no capital letters (CEP 26): write {base.lower()}")
    if not _VERSION.fullmatch(base):
        strange = next((char for char in base if not (char.isalnum() or char in "_.+!")), "!")
        raise ValueError(f"'{base}' is not a version: it contains '{strange}' (CEP 26)")
    if base.startswith(".") or base.endswith(".") or ".." in base:
        raise ValueError(f"'{base}' is not a version: it starts or ends with a dot, or has two dots in a row")


def _checked_build(build: str) -> str:
    if build.startswith("^") and build.endswith("$"):
        return build
    if len(build) > MAX_BUILD:
        raise ValueError(f"a build string has at most {MAX_BUILD} characters (CEP 26)")
    if not _BUILD.fullmatch(build):
        strange = next((char for char in build if not (char.isalnum() or char in "_.+*")), "")
        raise ValueError(f"'{build}' is not a build string: it contains '{strange}' (CEP 26)")
    return build


def _checked(key: str, value: str) -> str:
    """Return the checked value of one of the other fields. Raises ValueError."""
    if key == "build_number":
        found = _BUILD_NUMBER.fullmatch(value)
        if found is None:
            raise ValueError(f"'{value}' is not a build number, or a comparison such as >=2")
        return ("==" if found[1] in (None, "=", "==") else found[1]) + str(int(found[2]))
    if key == "subdir" and value != "noarch" and not (_SUBDIR.fullmatch(value) and len(value) <= 32):
        raise ValueError(f"'{value}' is not a subdir such as linux-64 or noarch (CEP 26)")
    if key in _HEX and not _HEX[key].fullmatch(value):
        raise ValueError(f"'{value}' is not an {key.upper()} digest")
    if key in _LISTS:
        return ", ".join(sorted({item.strip().strip("'\"") for item in value.split(",")} - {""}))
    if key in ("fn", "license", "license_family") and value.startswith("^"):
        raise ValueError(f"'{key}' cannot be a regular expression: use * for any text")
    if '"' in value and "'" in value:
        raise ValueError(f"'{key}' contains both kinds of quotes")
    return value
