"""The keys of a ``# conda execute`` block and of ``[tool.cetool]``, and which unknown word was meant to be one."""

from __future__ import annotations

import re

KEYS = ("env", "channels", "run_with", "variables", "base", "overlay", "conda", "baseline", "without")

#: What other tools, and people, call what these keys say.
_OTHER_NAMES = {
    "env": "dependencies deps packages package requirements requires specs environment environments pip pypi conda_env "
    "python requires_python",
    "channels": "repositories channel_list",
    "run_with": "run runs run_by run_using command cmd entrypoint entry_point interpreter executable shell",
    "variables": "vars env_vars env_variables environment_variables",
    "without": "exclude excluding",
}
_MEANT = {name: key for key, names in _OTHER_NAMES.items() for name in names.split()}
#: Letters of another name that is looked for misspelt as well.
_LONG = 8
#: Last words of keys that only tell about something: ``env_name`` changes nothing.
_ABOUT = frozenset(("name", "description", "comment", "note", "notes", "version", "url", "doc", "docs"))


def meant_key(word: str) -> str | None:
    """The key that an unknown one was probably meant to be; None for one that changes nothing.

    It is one under another name (``dependencies``, which other tools have for ``env``), one with a word more
    (``env_linux``), or a misspelt one: other dashes or capitals, a plural, one letter of a short word or two of a long
    one.
    """
    word = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")
    if word in _MEANT:
        return _MEANT[word]
    letters = word.replace("_", "")
    whole = {key.replace("_", ""): key for key in KEYS}
    for name, key in whole.items():
        if letters in (name, f"{name}s", name.removesuffix("s")):
            return key
    longer = next((key for key in KEYS if word.startswith(f"{key}_")), None)
    if longer is not None and word.rpartition("_")[2] not in _ABOUT:
        return longer
    whole.update((name.replace("_", ""), key) for name, key in _MEANT.items() if len(name) >= _LONG)
    distances = [(far, key) for name, key in whole.items() if (far := _distance(letters, name)) is not None]
    return min(distances)[1] if distances else None


def _distance(one: str, other: str) -> int | None:
    """How many letters have to be added, taken out, changed or swapped to make the other word of one.

    None where that are more than a slip of the finger: one in a short word, two in a long one.
    """
    most = 2 if len(other) > 5 else 1
    if abs(len(one) - len(other)) > most:
        return None
    above: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        above, before, row = row, above, [at]
        for to, same in enumerate(other, start=1):
            cost = min(above[to] + 1, row[to - 1] + 1, above[to - 1] + (letter != same))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == same:
                cost = min(cost, before[to - 2] + 1)
            row.append(cost)
    return row[-1] if row[-1] <= most else None
