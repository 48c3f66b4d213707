"""Honours the fields of match specs that rattler's solver ignores, or compares otherwise than CEP 29 has it.

Those are ``subdir``, ``fn``, ``extras``, ``license`` and ``license_family``. A solution has one package of a name,
which has to fit every spec for that name: so the solver is only shown the records that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import translate
from re import IGNORECASE, fullmatch
from typing import TYPE_CHECKING, Any

from cetool.declare.match_fields import Fields

if TYPE_CHECKING:
    from rattler import Channel, Gateway, PackageName, PackageRecord, RepoDataRecord, Subdir
    from rattler.repo_data.source import RepoDataSource

    Sources = Sequence[Channel | RepoDataSource]

#: The fields that are looked at here.
SELECTED = ("subdir", "fn", "extras", "license", "license_family")
_RENAMED = {"fn": "file_name"}


def fits(fields: Fields, record: PackageRecord) -> bool:
    """Whether a record has what a spec says in :data:`SELECTED`; of the other fields rattler knows itself."""
    for key in SELECTED:
        wanted = fields.get(key)
        if wanted is None:
            continue
        if key == "extras":
            if not set(wanted.split(", ")) <= record.extra_depends.keys():
                return False
        elif not _same(wanted, getattr(record, _RENAMED.get(key, key), None)):
            return False
    return True


def _same(wanted: str, found: str | None) -> bool:
    """CEP 29, "String matching": whatever the case, with ``*`` for anything."""
    pattern = translate(wanted.replace("[", "[[]").replace("?", "[?]"))
    return found is not None and fullmatch(pattern, found, IGNORECASE) is not None


class Selection:
    """What the solver is shown: by package name the specs that all its records have to fit."""

    def __init__(self, wanted: Mapping[str, tuple[Fields, ...]], *, strict: bool) -> None:
        self._wanted = wanted
        self._strict = strict

    def fits(self, record: PackageRecord) -> bool:
        """Whether a record fits all the specs for its name."""
        return all(fits(fields, record) for fields in self._wanted.get(record.name.normalized, ()))

    async def sources(self, gateway: Gateway, channels: Sources, subdirs: Sequence[Subdir]) -> list[Any]:
        """The channels as the solver is to see them; they themselves where nothing is selected."""
        if not self._wanted:
            return list(channels)
        shown: list[dict[str, list[RepoDataRecord]]] = [{} for _ in channels]
        for name, specs in self._wanted.items():
            hidden = False
            for channel, selected in zip(channels, shown, strict=True):
                found = await gateway.query(
                    [channel], list(subdirs), [name], recursive=False, channel_relations="disabled"
                )
                records = [record for records in found for record in records]
                selected[name] = [] if hidden else [record for record in records if self.fits(record)]
                # with strict priority a channel hides the others' packages of a name, whatever they are
                hidden = hidden or (self._strict and bool(records) and all(spec.channel is None for spec in specs))
        return [_Source(gateway, channel, selected) for channel, selected in zip(channels, shown, strict=True)]


class _Source:
    """A channel of which only some records of some packages are shown (rattler's ``RepoDataSource``)."""

    def __init__(
        self, gateway: Gateway, channel: Channel | RepoDataSource, selected: Mapping[str, list[RepoDataRecord]]
    ) -> None:
        self._gateway = gateway
        self._channel = channel
        self._selected = selected

    async def fetch_package_records(self, platform: Subdir, name: PackageName) -> list[RepoDataRecord]:
        """The records of a package in one subdir."""
        if name.normalized in self._selected:
            return [record for record in self._selected[name.normalized] if record.subdir == str(platform)]
        found = await self._gateway.query(
            [self._channel], [platform], [name.normalized], recursive=False, channel_relations="disabled"
        )
        return [record for records in found for record in records]

    def package_names(self, platform: Subdir) -> list[str]:
        """Nothing: the solver asks for what it needs by name."""
        return []
