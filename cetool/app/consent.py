"""Get the user's consent, without which cetool executes nothing for a script and fetches only the script itself."""

from __future__ import annotations

from cetool.app.decision import Decision, Subject
from cetool.app.reporting import Reporter
from cetool.app.world import World
from cetool.base.process import Consent, issue


def consent_to(what: Decision | Subject, world: World, reporter: Reporter) -> Consent:
    """Return the user's consent. Local scripts have it; for a script from a URL cetool asks.

    Raises CetoolError if the answer is no, or if there is no terminal to ask on.
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


#: The consent to what the user asks for directly, without a script from a URL.
OWN = issue("own")
