"""An engine that is a program of the user's: how it is called, and which version of what it is.

Where a program lies, or what it looks like, often tells enough to set it to work at once; asking conda for its version
can take a quarter of a second. The version is wanted all the same, by the environment's marker: it is asked meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cetool.base.errors import EngineError
from cetool.base.text import pattern
from cetool.engines.protocol import CreateRequest

#: What each program prints for ``--version``, the version in a group. PyPI has a test runner of the name mamba, at 0.11
#: since 2020; mamba 1 is conda with another solver, and tells conda's version as well.
_VERSIONS = {
    "conda": pattern(r"^conda (\d\S*)", re.MULTILINE),
    "mamba": pattern(r"^mamba (1\.\S*)|\A([2-9]\d*\.\d\S*)\s*\Z", re.MULTILINE),
    "micromamba": pattern(r"\A([1-9]\d*\.\d\S*)\s*\Z"),
}

#: The URLs in a channel, a match spec or a line of an explicit spec; a host may be an IPv6 address in brackets.
_URLS = pattern(r"(?<=://)(?:[^\s\"'\[\]/]*\[[0-9A-Fa-f:.]*\])?[^\s\"'\[\]]*")
_LONE_PERCENT = pattern(r"%(?![0-9A-Fa-f]{2})")

#: Variables of the user's that would have the version told in another form.
_OTHER_FORMS = ("CONDA_JSON", "CONDA_QUIET", "MAMBA_JSON", "MAMBA_QUIET")


class Program:
    """The program of an engine: ``executable`` is the beginning of its command line, ``environ`` the variables.

    ``version`` is None where nobody knows it yet.
    """

    def __init__(
        self, name: str, executable: tuple[str, ...], environ: Mapping[str, str], version: str | None = None
    ) -> None:
        self.name = name
        self.executable = executable
        self._environ = environ
        self._version = version
        #: Whether it was set to work without having said what it is.
        self.on_trust = version is None

    @property
    def version(self) -> str:
        """What it says of itself, asked once: ``26.7.1``. Raises EngineError where it is not what it is taken for."""
        if self._version is None:
            self._version = version_of(self.name, self.executable, self._environ)
        return self._version

    def asked_meanwhile(self, request: CreateRequest) -> CreateRequest:
        """The request, with the version asked while the program is at work. An error of that ends the work."""
        if self._version is not None:
            return request
        others = request.meanwhile

        def ask() -> None:
            if others is not None:
                others()
            _ = self.version

        return request._replace(meanwhile=ask)


def literal(request: CreateRequest) -> CreateRequest:
    """The request with everything encoded that conda or mamba would expand: ``$NAME``, ``${NAME}`` and ``%NAME%``.

    conda expands variables in channels, wherever they are named, mamba in those of an environment file. The user's own
    configuration may say ``$TOKEN``; what comes from a script, a lock or a baseline is data, and goes to a host.
    """
    return request._replace(
        channels=tuple(map(_literal, request.channels)),
        packages=tuple(map(_literal, request.packages)),
        explicit=tuple(package._replace(url=_literal(package.url)) for package in request.explicit),
    )


def _literal(text: str) -> str:
    if "://" not in text:
        return text
    return _URLS.sub(lambda url: _LONE_PERCENT.sub("%25", url[0].replace("$", "%24")), text)


def version_of(name: str, executable: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The version of a program of this name. Raises EngineError where it does not answer, or is another."""
    from cetool.base.process import clean_environ
    from cetool.engines.subprocesses import ask_version

    text = ask_version(executable, clean_environ(environ, drop=_OTHER_FORMS))
    found = _VERSIONS[name].search(text)
    if found is None:
        raise EngineError(
            f"another program of the name: its version is {text.splitlines()[0]!r}", code="engine-missing"
        )
    return str(next(filter(None, found.groups())))
