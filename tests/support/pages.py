"""Visit a server's pages without a browser: sign in, read pages, send their forms; and rules that every page keeps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

from support.serving import Answer, RunningServer

_VOID = {"meta", "link", "input", "br", "hr", "img"}
_FORM = "application/x-www-form-urlencoded"
_INLINE = {"strong", "code", "em", "span", "b"}
_HTML = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


@dataclass
class Element:
    """An element: its name, attributes and text."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name, "")


@dataclass
class Form:
    """A form with the values that its fields have."""

    action: str
    method: str
    values: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[Element] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)


class Page(HTMLParser):
    """A page that was read."""

    def __init__(self, answer: Answer, path: str) -> None:
        super().__init__()
        self.status = answer.status
        self.headers = answer.headers
        self.path = path
        self.html = answer.text
        self.elements: list[Element] = []
        self.forms: list[Form] = []
        self._open: list[Element] = []
        self._form: Form | None = None
        self._select: str | None = None
        self.feed(self.html)
        self.unclosed = [each.tag for each in self._open]

    # --- parsing ------------------------------------------------------------------------------------------------------

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value if value is not None else name for name, value in attrs}
        element = Element(tag, attributes, inside=tuple(each.tag for each in self._open))
        self.elements.append(element)
        if tag not in _INLINE:
            self.handle_data(" ")
        if tag not in _VOID:
            self._open.append(element)
        if tag == "form":
            self._form = Form(element["action"] or self.path, element["method"] or "get")
            self.forms.append(self._form)
        elif self._form is not None:
            self._field(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each.text += data

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, f"{self.path}: </{tag}> closes {self._open[-1:]}"
        element = self._open.pop()
        if tag not in _INLINE:
            self.handle_data(" ")
        if tag == "form":
            self._form = None
        if tag == "select":
            self._select = None
        if self._form is None:
            return
        if tag == "textarea":
            # the first line break is not part of the value
            self._form.values.append((element["name"], element.text.removeprefix("\n")))
        if tag == "option" and self._select is not None and "selected" in element.attributes:
            value = element.attributes.get("value", element.text)
            self._form.values = [each for each in self._form.values if each[0] != self._select]
            self._form.values.append((self._select, value))
        if tag == "option" and self._select is not None and self._select not in dict(self._form.values):
            self._form.values.append((self._select, element.attributes.get("value", element.text)))

    def _field(self, element: Element) -> None:
        assert self._form is not None
        name, kind = element["name"], element["type"]
        if name:
            self._form.fields.add(name)
        if element.tag == "button" and kind != "button":
            self._form.buttons.append(element)
        elif element.tag == "select":
            self._select = name
        elif element.tag == "input" and name and kind not in ("file", "submit"):
            self._form.values += [(name, element["value"])] if kind != "checkbox" or element["checked"] else []

    # --- reading ------------------------------------------------------------------------------------------------------

    def all(self, tag: str) -> list[Element]:
        """Return the elements with a name."""
        return [each for each in self.elements if each.tag == tag]

    @property
    def heading(self) -> str:
        """The text of the first heading."""
        return " ".join(self.all("h1")[0].text.split())

    @property
    def title(self) -> str:
        """The title."""
        return self.all("title")[0].text

    @property
    def text(self) -> str:
        """The text of the main part, with single spaces."""
        return " ".join(self.all("main")[0].text.split())

    @property
    def links(self) -> list[str]:
        """The targets of all links."""
        return [each["href"] for each in self.all("a")]

    def form(self, end: str) -> Form:
        """Return the form whose action ends with a text."""
        found = [each for each in self.forms if urlsplit(each.action).path.endswith(end) or each.action.endswith(end)]
        assert found, f"{self.path} has no form {end}, only {[each.action for each in self.forms]}"
        return found[0]

    def broken_rules(self) -> list[str]:
        """Return which rules for all pages this one breaks."""
        found = []
        ids = [each["id"] for each in self.elements if each["id"]]
        targets = {each["for"] for each in self.all("label")}
        if self.unclosed:
            found.append(f"not closed: {self.unclosed}")
        if len(ids) != len(set(ids)):
            found.append(f"ids twice: {sorted(each for each in ids if ids.count(each) > 1)}")
        if len(self.all("h1")) != 1 or not self.title.endswith("· cetool") or self.all("html")[0]["lang"] != "en":
            found.append("one h1, a title, a language")
        levels = [int(each.tag[1]) for each in self.elements if each.tag in ("h1", "h2", "h3", "h4")]
        found += [
            f"heading h{after} after h{before}" for before, after in itertools.pairwise(levels) if after > before + 1
        ]
        for each in self.elements:
            inline = [name for name in each.attributes if name.startswith("on") or name == "style"]
            if inline or (each.tag == "script" and not each["src"]) or each.tag == "style":
                found.append(f"inline script or style: {each.tag} {inline}")
            is_field = each.tag in ("input", "select", "textarea") and each["type"] != "hidden"
            if is_field and each["id"] not in targets and "label" not in each.inside:
                found.append(f"no label: {each.attributes}")
            if each.tag in ("a", "button") and not (each.text.strip() or each["aria-label"]):
                found.append(f"no name: {each.tag} {each.attributes}")
            for name in ("aria-labelledby", "aria-describedby", "for"):
                found += [f"{name} {word} is missing" for word in each[name].split() if word not in ids]
            for name in ("href", "src", "action"):
                if each[name] and urlsplit(each[name]).netloc:
                    found.append(f"link to another site: {each[name]}")
        return found


class Visitor:
    """A person with a browser that has cookies, but no JavaScript."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.cookie = ""

    def sign_in(self, password: str, name: str = "token") -> Page:
        """Sign in with a password, or with a token as one."""
        return self.send(self.get("/login/"), "/login/", username=name, password=password)

    def get(self, path: str) -> Page:
        """Open a page; follow redirects."""
        return self._visit("GET", path, None)

    def send(self, page: Page, end: str, **values: Any) -> Page:
        """Send the form of a page whose action ends with a text, with changed values; a list is several values."""
        form = page.form(end)
        assert set(values) <= form.fields, f"{page.path} {end} has no {set(values) - form.fields}"
        pairs = [each for each in form.values if each[0] not in values]
        for name, value in values.items():
            pairs += [(name, str(each)) for each in (value if isinstance(value, list) else [value])]
        body = urlencode(pairs)
        action = form.action.partition("#")[0].removeprefix(self.server.prefix)
        if form.method == "get":
            return self._visit("GET", f"{action}?{body}", None)
        return self._visit("POST", action, body)

    def post(self, path: str, **values: Any) -> Page:
        """Send a form that no page shows."""
        return self._visit("POST", path, urlencode(values))

    def upload(self, path: str, fields: Mapping[str, str], file: tuple[str, bytes]) -> Page:
        """Send a form with a file."""
        name, content = file
        parts = [f'name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
        parts.append(f'name="file"; filename="{name}"\r\n\r\n'.encode() + content)
        body = b"".join(b"--limit\r\nContent-Disposition: form-data; " + each + b"\r\n" for each in parts)
        return self._visit("POST", path, body + b"--limit--\r\n", "multipart/form-data; boundary=limit")

    def _visit(self, method: str, path: str, body: str | bytes | None, kind: str = _FORM) -> Page:
        for _ in range(5):
            headers = {**_HTML, **({"Cookie": self.cookie} if self.cookie else {})}
            if body is not None:
                headers |= {
                    "Content-Type": kind,
                    "Origin": self.server.url.removesuffix(self.server.prefix),
                }
            answer = self.server.request(method, path, body, token=None, headers=headers)
            if cookie := answer.headers.get("set-cookie"):
                self.cookie = cookie.partition(";")[0]
            if answer.status != 303:
                return Page(answer, path)
            method, body = "GET", None
            path = answer.headers["location"].removeprefix(self.server.prefix)
        raise AssertionError(f"redirects without end: {path}")
