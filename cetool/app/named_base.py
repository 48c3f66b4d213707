"""Bases of overlays that are environments of a server, which are made here first."""

from __future__ import annotations

from cetool.app.consent import consent_to
from cetool.app.decision import Decision, Subject, Wish
from cetool.app.ensuring import ensure, note_use_of
from cetool.app.named import answer_of, find_on_servers, spec_of
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.world import Evidence, World
from cetool.base.process import Consent
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.named import parse_named
from cetool.declare.requirements import SERVER, Requirements


def with_server_base(
    metadata: ScriptMetadata, source: Source, wish: Wish, world: World, reporter: Reporter
) -> tuple[ScriptMetadata, Consent, Evidence]:
    """Return the declaration with the prefix of a server's environment as its base; it is made if it is missing.

    Also returns the user's consent, and what the choice depends on.
    """
    needs = metadata.requirements
    assert needs.overlay is not None
    named = parse_named(needs.overlay.base.removeprefix(SERVER))
    agreed = consent_to(Subject(source, metadata, unasked=wish.unasked), world, reporter)
    here = find_on_servers(named, world, reporter)
    about = ScriptMetadata("base", "", None, Requirements(), None)
    decision = Decision(about, spec_of(here, Requirements()), named=answer_of(here, world, reporter), agreed=agreed)
    with ensure(decision, world, reporter, consent=agreed) as lease:
        note_use_of(lease, source.noted, world, reporter)
        base = needs.overlay._replace(base=str(lease.prefix))
    return metadata._replace(requirements=needs._replace(overlay=base)), agreed, here.evidence
