"""URLs are split by the rule that authentication uses, and shown and stored without their secrets."""

from __future__ import annotations

import pytest
from support.secret_urls import FORMS, SECRET

from cetool.base.text import hide_known
from cetool.base.urls import redact, scrub, split_url, strip_credentials


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_is_shown_or_stored(form: str) -> None:
    url = form.format(SECRET)
    stored, shown = strip_credentials(url), redact(url)
    assert SECRET not in stored + shown
    assert "example" in shown or "::1" in shown
    assert redact(shown) == shown and strip_credentials(stored) == stored
    # what a program prints of it, in whatever way, once the URL was taken apart
    for text in (f"cannot reach {url} now", f"'{url}'", f'{{"url": "{url}"}}', f"- {url!r}", f"got {SECRET} there"):
        assert SECRET not in scrub(text)


@pytest.mark.parametrize(
    ("text", "stored", "shown"),
    [
        ("https://user:pw@host/t/tk/ch", "https://host/ch", "https://***@host/t/***/ch"),
        ("https://host/ch?token=x&a=b", "https://host/ch?token=&a=b", "https://host/ch?token=***&a=b"),
        ("x[url='https://u:p@host/n/x-1-0.conda']", "x[url='https://host/n/x-1-0.conda']", None),
        ("a @ git+https://u:p@h/r.git@v1 ; extra == 'x'", "a @ git+https://h/r.git@v1 ; extra == 'x'", None),
        ("GET /x?token=abc HTTP/1.1", "GET /x?token= HTTP/1.1", "GET /x?token=*** HTTP/1.1"),
        ('["http://u:p@host", "me@example.org"]', '["http://host", "me@example.org"]', None),
    ],
)  # fmt: skip
def test_what_is_stored_keeps_all_but_the_secret(text: str, stored: str, shown: str | None) -> None:
    assert strip_credentials(text) == stored
    assert shown is None or redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("https://conda.anaconda.org/conda-forge", "file:///srv/t/abc/ch", "https://host:8443/ch", "http://[::1]:80/x@y"),
        *("git+http://127.0.0.1:8080/repo.git@rev", "https://host/simple/@scope/pkg", "git@github.com:org/repo"),
        *("six @ https://files/x-1.whl#sha256=abc ; python_version < '3'", '["http://h:80","me@example.org"]'),
        *("https://host: cannot be reached", "see http://host:80 or ask me@example.org", "https://h/x?name=y&b=c", "https://h/t/"),
        *('f"http://{host}:{port}", "@"', "oci://ghcr.io/org/repo:tag@sha256:abc", "https://host/ch?monkeys=2"),
    ],
)  # fmt: skip
def test_text_without_secrets_stays(text: str) -> None:
    assert (strip_credentials(text), redact(text)) == (text, text)


def test_credentials_belong_to_scheme_host_port_and_path() -> None:
    channel = split_url("https://user:p@ss@Host.example:443/ch")
    assert channel.login == (b"user", b"p@ss") and channel.basic == "Basic dXNlcjpwQHNz"
    assert split_url("https://host.example/ch/noarch/x.conda").is_below(channel)
    for other in ("http://host.example/ch/x", "https://host.example:9000/ch/x", "https://host.example/ch2/x",
                  "https://host.example/ch/../x",
                  "https://host.example/ch/%2e%2e/x", "https://other.example/ch/x"):  # fmt: skip
        assert not split_url(other).is_below(channel), other


@pytest.mark.parametrize(
    "url", ["x", "https://", "https://u:a/b@host/", "https://host:port/", "https://a\\@b/", "https://h:99999"]
)
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        split_url(url)


def test_headers_and_parts_of_known_secrets_are_hidden() -> None:
    split_url("https://me:long@Pass12345@host/")
    assert hide_known("the host Pass12345@host was not found") == "the host ***@host was not found"
    assert scrub("Authorization: Basic bWU6bG9uZ0BQYXNzMTIzNDU=") == "Authorization: Basic ***"
    assert scrub("> authorization: Bearer abc.def-1") == "> authorization: Bearer ***"


@pytest.mark.parametrize(
    "piece", ["http://a:b/", "a://", "://@", "https://u:p@'", "/t/x", "https://h?u=https%3A%2F%2Fa%40b&"]
)
def test_a_long_text_takes_time_in_proportion(piece: str) -> None:
    text = "https://h" + piece * (200_000 // len(piece))  # the square of this would not end
    assert redact(text).startswith("https://")
