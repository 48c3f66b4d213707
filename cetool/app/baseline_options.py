"""The options ``--baseline`` and ``--without``, as they were given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cetool.base.errors import MetadataError, UsageError
from cetool.base.values import Value
from cetool.declare.requirements import Requirements

if TYPE_CHECKING:
    from collections.abc import Iterable


class BaselineOptions(Value):
    """Paths or URLs of baselines, and what is taken out of them; ``insecure`` lets plain http pass for those."""

    named: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    insecure: bool = False

    @classmethod
    def of(
        cls, named: Iterable[str] | None, without: Iterable[str] | None = None, *, insecure: bool = False
    ) -> BaselineOptions:
        """The options by what the command line has for them."""
        return cls(tuple(named or ()), tuple(without or ()), insecure)

    @property
    def given(self) -> dict[str, bool]:
        """Which of the options were given, by what they are called."""
        return {"--baseline": bool(self.named), "--without": bool(self.without)}

    def added_to(self, needs: Requirements) -> Requirements:
        """The requirements with these; paths start from the working directory. Raises UsageError."""
        if not self.named and not self.without:
            return needs
        from cetool.declare.baselines import canonical_baseline, canonical_pattern

        try:
            baselines = tuple(canonical_baseline(text, os.getcwd()) for text in self.named)
            without = tuple(canonical_pattern(text) for text in self.without)
        except MetadataError as error:
            raise error.turned_into(UsageError, where=None) from None
        needs = needs.plus(Requirements(baselines=baselines, without=without))
        if not needs.baselines:
            raise UsageError("--without takes packages out of a baseline, and none is named", hint="--baseline FILE")
        return needs


#: None was given.
NO_BASELINE = BaselineOptions()
