"""The one way to a consent, without which nothing is executed for a script, and nothing but the script is fetched."""

from __future__ import annotations

from cetool.app.decision import Decision, Subject
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.process import Consent, issue


def consent_to(what: Decision | Subject, world: World, reporter: Reporter) -> Consent:
    """That the user agrees to what is decided: what is the user's own passes, about a script from a URL they are asked.

    Raises CetoolError where the answer is no, or there is no terminal to ask on.
    """
    if isinstance(what, Decision):
        if what.agreed is not None:
            return what.agreed
        if what.source is None:
            return OWN
        what = Subject(what.source, what.metadata, unasked=what.unasked)
    if what.source.remote is None:
        return OWN
    from cetool.app.asking import ask_about  # only scripts from URLs are asked about

    return ask_about(what, what.source.remote, world, reporter)


#: The consent to what is no script's: it is the user's own.
OWN = issue("own")
