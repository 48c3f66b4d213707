"""Consent: the value without which nothing is executed for a script, and nothing but the script is fetched for it.

Whatever starts an engine, an installer, a base's interpreter or the script itself wants one. A command gets it from
:meth:`cetool.app.session.Session.consent`, which asks about scripts from URLs; there is no other way to one.
"""

from __future__ import annotations

from typing import final

_KEY = object()


@final
class Consent:
    """That the user agrees to what is about to be executed or fetched.

    ``how`` tells by what: ``own`` where all of it is the user's own, else ``asked``, ``--yes``, ``--sha256``,
    ``always`` (the setting), ``before`` (an answer that was kept) or ``unasked`` (conda-execute without a terminal).
    """

    __slots__ = ("how",)
    how: str

    def __init__(self, key: object, how: str) -> None:
        if key is not _KEY:
            raise TypeError("a consent comes from the question: Session.consent()")
        object.__setattr__(self, "how", how)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a consent cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"Consent({self.how!r})"


def issue(how: str) -> Consent:
    """A consent, for :mod:`cetool.app.consent` alone (and for tests of what wants one): it knows the answer."""
    return Consent(_KEY, how)
