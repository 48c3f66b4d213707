"""Links to pages that show a file become links to the file; other links are unchanged."""

from __future__ import annotations

import pytest

from cetool.fetch.addresses import authorization, parse_address
from cetool.fetch.pages import likely_raw, raw_file

GITHUB = "raw.githubusercontent.com/o/r"


@pytest.mark.parametrize(
    ("link", "raw"),
    [
        ("github.com/o/r/blob/main/d/s%20x.py?raw=true#L1-L9", f"{GITHUB}/main/d/s%20x.py"),
        ("u:p@www.GitHub.com/o/r/blob/v1/s.py", f"{GITHUB}/v1/s.py"),
        ("github.com/o/r/blob/feature/a-b/d/s.py?plain=1#L3", f"{GITHUB}/feature/a-b/d/s.py"),
        ("github.com/o/r/raw/refs/heads/main/s.py", f"{GITHUB}/refs/heads/main/s.py"),
        ("github.com/o/r/edit/main/s.py", f"{GITHUB}/main/s.py"),
        ("github.com/o/r/blame/main/s.py#L7", f"{GITHUB}/main/s.py"),
        ("github.com/o/blob/blob/main/blob/s.py", "raw.githubusercontent.com/o/blob/main/blob/s.py"),
        ("gitlab.com/g/sub/p/-/blob/main/s.R?ref_type=heads", "gitlab.com/g/sub/p/-/raw/main/s.R?ref_type=heads"),
        ("gitlab.com/g/p/blob/main/s.R", "gitlab.com/g/p/-/raw/main/s.R"),
        ("git.example/g/p/-/blame/main/s.R#L3", "git.example/g/p/-/raw/main/s.R"),
        ("gitlab.com/-/snippets/123", "gitlab.com/-/snippets/123/raw"),
        ("gitlab.com/g/p/-/snippets/123/", "gitlab.com/g/p/-/snippets/123/raw"),
        ("codeberg.org/o/r/src/branch/main/s.py", "codeberg.org/o/r/raw/branch/main/s.py"),
        ("git.example:3000/o/r/src/commit/0a1b/s.py", "git.example:3000/o/r/raw/commit/0a1b/s.py"),
        ("bitbucket.org/o/r/src/main/s.py", "bitbucket.org/o/r/raw/main/s.py"),
        ("git.sr.ht/~me/r/tree/main/item/d/s.py", "git.sr.ht/~me/r/blob/main/d/s.py"),
        ("huggingface.co/datasets/o/r/blob/main/s.py", "huggingface.co/datasets/o/r/resolve/main/s.py"),
        ("b\u00fccher.example/\u00e4.py#x", "xn--bcher-kva.example/%C3%A4.py"),
    ],
)
def test_links_to_pages_become_links_to_files(link: str, raw: str) -> None:
    address = raw_file(parse_address(f"https://{link}"))
    assert (address.url, address.basic, address.fragment) == (f"https://{raw}", None, "")
    assert raw_file(address) == address


@pytest.mark.parametrize(
    "link",
    [
        "https://example.org/o/r/blob/main/s.py",
        "https://example.org/src/s.py",
        "https://raw.githubusercontent.com/o/r/src/branch/s.py",
        "https://gist.githubusercontent.com/o/-/blob/x/s.py",
        "https://gist.github.com/me/0a0a0a0a0a0a0a0a0a0a/raw/s.py",
        "https://github.com/o/r/releases/download/v1/s.py",
        "https://github.com.evil.example/o/r/blob/main/s.py",
        "https://me:pw@git.example/s.py",
        "http://localhost:8000/s.py?x=/o/r/src/branch/main/s.py",
    ],
)
def test_other_links_are_unchanged(link: str) -> None:
    address = parse_address(link)
    assert raw_file(address) == address


def test_the_likely_file_of_an_unknown_page_is_suggested() -> None:
    address = parse_address("https://ghe.example/o/r/blob/main/s.py")
    assert likely_raw(address) == "https://ghe.example/o/r/raw/main/s.py"
    assert likely_raw(parse_address("https://ghe.example/login")) is None


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://raw.githubusercontent.com/o/r/s.py", True),
        ("https://raw.githubusercontent.com:443/o/r/s.py", True),
        ("https://api.github.com/gists/1", True),
        ("https://raw.githubusercontent.com:8443/o/r/s.py", False),
        ("http://raw.githubusercontent.com/o/r/s.py", False),
        ("https://raw.githubusercontent.com.evil.example/s.py", False),
        ("https://evil.example/raw.githubusercontent.com", False),
        ("https://raw.githubusercontent.com@evil.example/s.py", False),
        ("https://me.github.io/s.py", False),
    ],
)
def test_the_token_is_for_github_only(url: str, sent: bool) -> None:
    environ = {"CETOOL_GITHUB_TOKEN": " secret\n", "HOME": "/nonexistent"}
    assert authorization(parse_address(url), environ) == ("token secret" if sent else None)
