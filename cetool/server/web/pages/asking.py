"""What the routes of pages take: who asks, and the fields of a form."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from starlette.datastructures import FormData, UploadFile

from cetool.base.errors import CetoolError
from cetool.server.web.security import Here, Known, server_of

__all__ = ["Here", "Viewer"]

#: Items on a page.
PAGE = 50
#: Fields and files of a form; its size is limited for every request.
_FIELDS, _FILES = 200, 2


class Form:
    """The fields of a form that was sent."""

    def __init__(self, fields: FormData) -> None:
        self._fields = fields

    def text(self, name: str, default: str = "") -> str:
        """Return a field's text, with line ends as in files; ``default`` if it is missing."""
        value = self._fields.get(name)
        return value.replace("\r\n", "\n") if isinstance(value, str) else default

    def word(self, name: str) -> str:
        """Return a field's text without spaces around it."""
        return self.text(name).strip()

    def all(self, name: str) -> tuple[str, ...]:
        """Return the values of the checked boxes with a name."""
        return tuple(value for value in self._fields.getlist(name) if isinstance(value, str))

    def number(self, name: str) -> int | None:
        """Return a field's whole number; None if it is empty. Raises CetoolError."""
        text = self.word(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise CetoolError(f"{name} is {text[:40]!r}, not a number", code="request-malformed", about=name)
        return int(text)

    def file(self, name: str) -> tuple[str, str] | None:
        """Return the name and text of a file; None if none was chosen. Raises CetoolError if it is not text."""
        sent = self._fields.get(name)
        if not isinstance(sent, UploadFile) or not sent.filename:
            return None
        try:
            return sent.filename, sent.file.read().decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise CetoolError(
                f"{sent.filename[:100]!r} is not text in UTF-8", code="request-malformed", about=name
            ) from None


async def _form(request: Request) -> Form:
    most = server_of(request).config.body_size
    return Form(await request.form(max_files=_FILES, max_fields=_FIELDS, max_part_size=most))


#: Who asks, and has a right or is logged in.
Viewer = Known
Posted = Annotated[Form, Depends(_form)]
#: The number of a page of a list.
PageNumber = Annotated[int, Query(ge=1, le=10**6)]
#: The number of a build, a token or a grant, in a path.
Number = Annotated[int, Path(ge=1, lt=2**63)]
#: What is searched for.
Text = Annotated[str, Query(max_length=300)]
