"""Scripts from URLs on the command line: consent, what is remembered, and where secrets go."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import environments, told, unconfirmed
from support.terminal import converse
from support.web import Server, leads_to, make_certificate, sends, sends_if_changed, serving, tunnelling

HELLO = b'# conda execute\n# env: [hello-bin]\n# run_with: /bin/sh\nhello "$@"; cat; echo $0\n'
OTHER = HELLO + b"# other\n"
#: Packages of nothing are made in no time.
EMPTY = b"# conda execute\n# env: [hello-bin]\n# run_with: [/bin/echo, ran]\n"
PROMPT = "[y/N]"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def web(certificate: Path) -> Iterator[Server]:
    """A server over HTTPS with a proxy through which it has the names of all hosts."""
    with serving(certificate) as server:
        yield server


@pytest.fixture
def trusting(settled: Home, certificate: Path) -> Iterator[Home]:
    """A home that trusts the server's certificate, without any consent yet."""
    made = Home(settled.path, {**settled.env, "SSL_CERT_FILE": str(certificate.parent / "cert.pem")})
    for directory in (answers(made), copies(made)):  # the home is shared
        shutil.rmtree(directory, ignore_errors=True)
    yield made
    for directory in (answers(made), copies(made)):
        shutil.rmtree(directory, ignore_errors=True)


def answers(home: Home) -> Path:
    return home.path / ".local/share/cetool/trust"


def copies(home: Home) -> Path:
    return home.cache / "copies"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def asks(home: Home, words: Sequence[str], lines: Sequence[str]) -> tuple[int, str]:
    return converse(home, ["cetool", *words], lines, prompt=PROMPT)


# --- the question ---------------------------------------------------------------------------------------------------


def test_a_script_is_asked_about_once_for_each_content(trusting: Home, web: Server) -> None:
    web.answers |= {"/a.sh": sends(HELLO), "/b/c.sh": sends(HELLO)}
    status, shown = asks(trusting, ["run", f"{web.url}/a.sh", "x y"], ["y", "for the script", "\x04"])
    assert status == 0, shown
    for fact in (f"from:       {web.url}/a.sh", f"sha256:     {digest(HELLO)}", "env:        [hello-bin]"):
        assert f"  {fact}\n" in shown
    assert shown.index("hello from ") > shown.index(PROMPT)
    # the line after the answer was input of the script
    assert shown.count("for the script") == 2 and "<x y>" in shown
    for path in ("a.sh", "b/c.sh"):
        done = trusting.cetool("run", f"{web.url}/{path}", input="piped\n")
        assert (done.returncode, "piped\n" in done.stdout) == (0, True), done.stderr
        assert unconfirmed(done.stderr) == ""


@pytest.mark.parametrize("typed", ["n", "", "yeah", "\x04", "\x03", "y\x04\x04"])
def test_only_yes_is_consent_and_a_refusal_leaves_nothing(trusting: Home, web: Server, typed: str) -> None:
    web.answers["/a.sh"] = sends(EMPTY)
    before = sorted(trusting.path.rglob("*"))
    status, shown = asks(trusting, ["run", "--refresh", f"{web.url}/a.sh"], [typed])
    assert status == 125, shown
    assert "\nran " not in shown and "you did not agree" in shown
    assert sorted(trusting.path.rglob("*")) == before


def test_the_question_is_on_the_terminal_when_input_is_piped(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(HELLO)
    line = f"echo y | cetool run {web.url}/a.sh"
    status, shown = converse(trusting, ["sh", "-c", line], ["n"], prompt=PROMPT)
    assert (status, "hello from" in shown) == (125, False)  # the y was not the answer
    status, shown = converse(trusting, ["sh", "-c", line], ["y"], prompt=PROMPT)
    assert status == 0 and re.search(r"hello from .*\ny\n", shown), shown


def test_without_a_terminal_a_script_needs_yes(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(HELLO)
    url = f"{web.url}/a.sh"
    before = environments(trusting)
    for words in (("run", url), (url,), ("run", "-q", url)):
        done = trusting.cetool(*words, input="y\n")
        assert (done.returncode, done.stdout) == (125, ""), done.stderr
        error, *facts, hint = told(done.stderr)
        assert error.startswith(f"cetool: {url}: ") and "no terminal to ask on" in error
        assert "--yes" in hint and f"--sha256 {digest(HELLO)}" in hint
        assert f"  from:       {url}" in facts and "  env:        [hello-bin]" in facts
    done = trusting.run("conda-execute", url, env={"CETOOL_TRUST": "ask"})
    assert done.returncode == 125 and "no terminal to ask on" in done.stderr
    assert (environments(trusting), names(answers(trusting)), names(copies(trusting))) == (before, [], [])
    # an unattended run still works
    done = trusting.run("conda-execute", url)
    assert done.stdout.startswith("hello from ") and "runs without a question" in done.stderr
    assert names(answers(trusting)) == []
    status, shown = converse(trusting, ["conda-execute", url], ["n"], prompt=PROMPT)
    assert (status, "hello from" in shown) == (125, False)
    assert trusting.cetool("run", "--yes", url).stdout.startswith("hello from ")
    done = trusting.run("conda-execute", url)
    assert (done.returncode, unconfirmed(done.stderr)) == (0, "")


def test_a_changed_script_is_asked_about_again(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(HELLO)
    assert trusting.cetool("run", "-y", f"{web.url}/a.sh").returncode == 0
    web.answers["/a.sh"] = sends(OTHER)
    status, shown = asks(trusting, ["run", f"{web.url}/a.sh"], ["n"])
    assert status == 125
    assert re.search(rf"It has changed since you agreed to it on .* \(sha256 {digest(HELLO)}\)", shown)
    assert digest(OTHER) in shown
    # and the previous content is still known
    web.answers["/a.sh"] = sends(HELLO)
    assert trusting.cetool("run", f"{web.url}/a.sh").returncode == 0


def test_untrusted_text_is_escaped_on_the_terminal(trusting: Home, web: Server) -> None:
    nasty = json.dumps("\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u200b" + "x" * 5000)
    web.answers["/%1b%5b2Ja.sh"] = sends(
        HELLO.replace(b"# run_with", f"# variables: {{A: {nasty}}}\n# run_with".encode())
    )
    done = trusting.cetool("run", f"{web.url}/%1b%5b2Ja.sh")
    assert done.returncode == 125 and "no terminal to ask on" in done.stderr
    assert all(char.isprintable() or char == "\n" for char in done.stderr)
    assert r"A=\x1b[2J" in done.stderr and max(map(len, done.stderr.splitlines())) < 1200


# --- settings, pins, and taking back --------------------------------------------------------------------------------


def test_a_setting_gives_consent_to_all_scripts(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(HELLO)
    url = f"{web.url}/a.sh"
    assert trusting.cetool("run", url, env={"CETOOL_TRUST": "always"}).returncode == 0
    assert names(answers(trusting)) == []  # there was no consent for this one
    never = {"CETOOL_TRUST": "never"}
    status, shown = converse(trusting, ["cetool", "run", url], [], prompt=PROMPT, env=never)
    assert status == 125 and "trust is never (CETOOL_TRUST)" in shown and PROMPT not in shown
    assert trusting.cetool("run", "--sha256", digest(HELLO), url, env=never).returncode == 0
    assert trusting.cetool("run", url, env=never).returncode == 0
    wrong = trusting.cetool("run", url, env={"CETOOL_TRUST": "perhaps"})
    assert wrong.returncode == 125 and "must be one of ask, always, never" in wrong.stderr


def test_a_pinned_digest_is_consent_and_other_content_is_not_run(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(HELLO)
    url = f"{web.url}/a.sh"
    for pin in ("12", "g" * 64, digest(HELLO)[1:], ""):
        done = trusting.cetool("run", "--sha256", pin, url)
        assert done.returncode == 2 and "64 hexadecimal digits" in done.stderr
    assert web.requests == []
    done = trusting.cetool("run", "--yes", "--sha256", digest(OTHER), url)
    assert (done.returncode, done.stdout) == (125, "")
    assert digest(HELLO) in told(done.stderr)[0] and digest(OTHER) in told(done.stderr)[0]
    assert (names(answers(trusting)), names(copies(trusting))) == ([], [])
    done = trusting.cetool("run", "--sha256", f"sha256:{digest(HELLO).upper()}", url)
    assert done.stdout.startswith("hello from "), done.stderr
    # a pin also works for a file, standard input and lines
    script = trusting.write("pinned.sh", EMPTY.decode())
    assert trusting.cetool("run", "--sha256", digest(EMPTY), script).returncode == 0
    for words, text in (([script], ""), (["-"], EMPTY.decode()), (["-c", *EMPTY.decode().splitlines()], "")):
        assert trusting.cetool("run", "--sha256", digest(OTHER), *words, input=text).returncode == 125


def test_answers_are_listed_and_removed_but_not_collected(trusting: Home, web: Server) -> None:
    assert trusting.cetool("trust", "list").stdout == ""
    web.answers |= {"/a.sh": sends(EMPTY), "/b.sh": sends(EMPTY + b"\n# b\n")}
    secret = web.url.replace("//", "//user:sEcReT@")
    assert trusting.cetool("run", "-y", f"{secret}/a.sh?token=sEcReT").returncode == 127
    for name in ("a.sh", "b.sh"):
        assert trusting.cetool("run", "-y", f"{secret}/{name}").returncode == 0
    assert trusting.cetool("gc", "--all").returncode == 0
    assert names(copies(trusting)) == []
    listed = json.loads(trusting.cetool("trust", "list", "--json").stdout)
    assert [item["url"] for item in listed["scripts"]] == [f"{web.url}/b.sh", f"{web.url}/a.sh"]
    assert listed["scripts"][1]["sha256"] == digest(EMPTY) and listed["scripts"][1]["how"] == "--yes"
    assert "sEcReT" not in "".join(path.read_text() for path in answers(trusting).iterdir())
    assert oct(answers(trusting).stat().st_mode)[-3:] == "700"
    table = trusting.cetool("trust", "list").stdout
    assert digest(EMPTY)[:16] in table
    assert trusting.cetool("run", f"{web.url}/a.sh").returncode == 0
    done = trusting.cetool("trust", "forget", digest(EMPTY)[:16])
    assert done.returncode == 0 and "Forgot" in done.stderr
    assert "no terminal to ask on" in trusting.cetool("run", f"{web.url}/a.sh").stderr
    assert trusting.cetool("trust", "forget", f"{web.url}/b.sh").returncode == 0
    assert names(answers(trusting)) == []
    for words, status in ((["abcdef12"], 125), (["what?"], 2), ([], 2), (["--all"], 0)):
        assert trusting.cetool("trust", "forget", *words).returncode == status


def test_answers_that_others_could_have_written_are_ignored(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(EMPTY)
    url = f"{web.url}/a.sh"
    assert trusting.cetool("run", "-y", url).returncode == 0
    answers(trusting).chmod(0o777)
    done = trusting.cetool("run", url)
    assert done.returncode == 125 and "is writable by everyone" in done.stderr
    done = trusting.cetool("run", "--yes", url)
    assert (done.returncode, done.stdout.split()[0]) == (0, "ran") and "could not be saved" in done.stderr
    answers(trusting).chmod(0o700)
    (file,) = answers(trusting).iterdir()
    file.chmod(0o666)
    assert trusting.cetool("run", url).returncode == 125
    file.chmod(0o600)
    file.write_text(file.read_text().replace(digest(EMPTY), digest(OTHER)))
    assert trusting.cetool("run", url).returncode == 125


# --- what else takes a script ---------------------------------------------------------------------------------------


def test_only_commands_that_make_environments_ask(home: Home, web: Server, certificate: Path) -> None:
    home.env["SSL_CERT_FILE"] = str(certificate.parent / "cert.pem")
    web.answers["/a.sh"] = sends(HELLO)
    url = f"{web.url}/a.sh"
    shown = json.loads(home.cetool("show", "--json", url).stdout)
    assert (shown["specs"], shown["sha256"]) == (["hello-bin"], digest(HELLO))
    named = home.cetool("name", url)
    assert named.stdout.strip() == shown["prefix"]
    checked = home.cetool("check", "--ignore", "unpinned", url)
    assert checked.returncode == 0, checked.stderr
    assert (names(answers(home)), names(copies(home))) == ([], [])
    for command in ("path", "shell"):
        done = home.cetool(command, url)
        assert done.returncode == 125 and "no terminal to ask on" in done.stderr
    assert not environments(home)
    assert home.cetool("path", "--yes", url).stdout == named.stdout
    home.cetool("trust", "forget", "--all")
    # the environment exists, so that `path` executes nothing; a shell gets the variables that the script declares
    assert home.cetool("path", url).stdout == named.stdout
    assert "no terminal to ask on" in home.cetool("shell", url, input="echo in here\n").stderr
    assert home.cetool("shell", "--yes", url, input="echo in here\n").stdout == "in here\n"
    home.cetool("trust", "forget", "--all")
    assert "no terminal to ask on" in home.cetool("run", url).stderr
    assert home.cetool("remove", url).returncode == 0 and not environments(home)
    for words in (["add", url, "six"], ["init", url], ["drop", url, "six"], ["convert", url, "--to", "pep723"]):
        done = home.cetool(*words)
        assert done.returncode == 2 and "cannot be changed" in done.stderr, done.stderr


# --- without a network, and with one --------------------------------------------------------------------------------


def test_offline_uses_the_last_copy(trusting: Home, certificate: Path) -> None:
    with serving(certificate) as web:
        url = f"{web.url}/a.sh"
        web.answers |= {"/a.sh": sends(HELLO), "/b.sh": sends(OTHER)}
        assert trusting.cetool("run", "-y", url).returncode == 0
        web.answers["/a.sh"] = sends(EMPTY)
        assert trusting.cetool("run", "-y", url).returncode == 0
        asked = len(web.requests)
        done = trusting.cetool("run", "--offline", url)
        assert done.stdout.startswith("ran ") and len(web.requests) == asked
        assert re.fullmatch(rf"Using the copy of {url} from \d+s ago \(--offline\)\n", done.stderr)
        assert json.loads(trusting.cetool("show", "--offline", "--json", url).stdout)["sha256"] == digest(EMPTY)
        done = trusting.cetool("run", "--offline", f"{web.url}/b.sh")
        assert done.returncode == 2 and "has no copy here" in done.stderr
        done = trusting.cetool("run", "--offline", "--sha256", digest(HELLO), url)
        assert done.returncode == 125 and digest(EMPTY) in done.stderr
    done = trusting.cetool("run", url)
    assert done.returncode == 125
    assert "refused the connection" in told(done.stderr)[0]
    assert re.search(r"`--offline` runs the copy from \d+s ago", told(done.stderr)[1])
    # a forgotten copy is asked about again, and a damaged copy is ignored
    trusting.cetool("trust", "forget", "--all")
    assert "no terminal to ask on" in trusting.cetool("run", "--offline", url).stderr
    (copy,) = copies(trusting).iterdir()
    copy.write_bytes(copy.read_bytes() + b"rm -r x\n")
    assert "has no copy" in trusting.cetool("run", "--offline", "-y", url).stderr


def test_copies_are_kept_longer_than_environments_but_not_forever(trusting: Home, web: Server) -> None:
    web.answers["/a.sh"] = sends(EMPTY)
    assert trusting.cetool("run", "-y", f"{web.url}/a.sh").returncode == 0
    (copy,) = copies(trusting).iterdir()
    for days, kept in ((29, True), (31, False)):
        then = time.time() - days * 86400
        os.utime(copy, (then, then))
        assert trusting.cetool("gc", "--older-than", "1000d").returncode == 0
        assert copy.exists() is kept


def test_an_unchanged_script_is_not_downloaded_again(trusting: Home, web: Server) -> None:
    web.answers |= {"/to": leads_to("/a.sh"), "/a.sh": sends_if_changed(EMPTY, '"one"')}
    for _ in range(2):
        assert trusting.cetool("run", "-y", f"{web.url}/to").stdout.startswith("ran ")
    assert web.headers["If-None-Match"] == '"one"'
    web.answers["/a.sh"] = sends_if_changed(HELLO, '"two"')
    assert trusting.cetool("run", "-y", f"{web.url}/to").stdout.startswith("hello from ")
    # other requests do not contain it
    web.answers["/to"] = leads_to("/b.sh")
    web.answers["/b.sh"] = sends(EMPTY)
    assert trusting.cetool("run", "-y", f"{web.url}/to").stdout.startswith("ran ")
    assert "If-None-Match" not in web.headers


# --- relative paths, and secrets ------------------------------------------------------------------------------------


def test_relative_channels_start_at_the_working_directory_and_need_consent(
    trusting: Home, web: Server, channel: Path, tmp_path: Path
) -> None:
    script = HELLO.replace(b"# run_with", b"# channels: [./conda-forge]\n# run_with")
    web.answers["/a.sh"] = sends(script)
    url = f"{web.url}/a.sh"
    done = trusting.cetool("run", "-y", url, cwd=channel)
    assert done.stdout.startswith("hello from "), done.stderr
    kept = Path(done.stdout.splitlines()[-1])  # $0: a file of its own in the cache
    assert kept.is_absolute() and kept.is_relative_to(trusting.cache) and kept.name == "a.sh"
    assert trusting.cetool("run", url, cwd=channel).returncode == 0
    # the same block means other packages here
    done = trusting.cetool("run", url, cwd=tmp_path)
    assert done.returncode == 125 and "not to its use of these directories" in done.stderr
    assert f"{tmp_path.as_uri()}/conda-forge" in done.stderr


def test_the_kept_copy_runs_in_the_callers_directory(trusting: Home, web: Server, tmp_path: Path) -> None:
    block = '# /// conda-script\n# channels = ["conda-forge"]\n# entrypoint = "hello ${SCRIPT}"\n'
    web.answers["/e.txt"] = sends(f'{block}# [dependencies]\n# hello-bin = "*"\n# /// end-conda-script\n'.encode())
    done = trusting.cetool("run", "-y", f"{web.url}/e.txt", "more", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script, more = re.findall("<(.*)>", done.stdout)
    assert Path(script).is_relative_to(trusting.cache) and Path(script).name == "e.txt" and more == "more"
    web.answers["/pwd.sh"] = sends(HELLO.replace(b'hello "$@"', b"pwd"))
    done = trusting.cetool("run", "-y", f"{web.url}/pwd.sh", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == str(tmp_path)


def test_the_token_is_sent_to_github_only_and_hidden_from_the_script(trusting: Home, web: Server) -> None:
    script = HELLO + b'echo "token: $CETOOL_GITHUB_TOKEN"\n'
    web.answers |= {
        "raw.githubusercontent.com/o/r/main/d/s.sh": sends(script),
        "raw.githubusercontent.com/o/r/away/s.sh": leads_to("https://other.example/s.sh"),
        "other.example/s.sh": sends(script),
        "raw.githubusercontent.com/o/r/none/s.sh": sends(status=404),
    }
    trusting.write(".netrc", "machine other.example login me password nEtRc\ndefault login me password all\n").chmod(
        0o600
    )
    with tunnelling(web) as proxy:
        env = {"https_proxy": proxy, "no_proxy": "", "CETOOL_GITHUB_TOKEN": "gh_sEcReT"}
        done = trusting.cetool("run", "-y", "https://github.com/o/r/blob/main/d/s.sh?plain=1#L3", env=env)
        assert done.stdout.endswith("token: \n"), done.stderr
        away = trusting.cetool("run", "-v", "-y", "https://github.com/o/r/raw/away/s.sh", env=env)
        assert away.returncode == 0, away.stderr
        none = trusting.cetool("run", "https://github.com/o/r/blob/none/s.sh", env=env)
        assert none.returncode == 127 and "CETOOL_GITHUB_TOKEN" in none.stderr
        wrong = trusting.cetool(
            "run", "https://github.com/o/r/blob/main/d/s.sh", env={**env, "CETOOL_GITHUB_TOKEN": "a b"}
        )
        assert wrong.returncode == 125 and "a b" not in wrong.stderr
        plain = trusting.cetool("run", f"{web.url}/o/r/main/d/s.sh", env={**env, "no_proxy": "127.0.0.1"})
        assert plain.returncode == 127
    (trusting.path / ".netrc").unlink()
    netrc = "Basic bWU6bkV0UmM="
    assert [(place.partition("/")[0], sent) for place, sent in web.asked] == [
        ("raw.githubusercontent.com", "token gh_sEcReT"),
        ("raw.githubusercontent.com", "token gh_sEcReT"),
        ("other.example", netrc),
        ("raw.githubusercontent.com", "token gh_sEcReT"),
        (f"127.0.0.1:{web.port}", None),
    ]
    said = "".join(item.stdout + item.stderr for item in (done, away, none, wrong, plain))
    assert "sEcReT" not in said and "nEtRc" not in said


# --- gists ----------------------------------------------------------------------------------------------------------


def gist(**files: bytes) -> bytes:
    """Return the API's answer for a gist with these files; two underscores stand for a dot."""
    listed = {}
    for key, data in files.items():
        name = key.replace("__", ".")
        raw = f"https://gist.githubusercontent.com/me/{'0a' * 16}/raw/{'b1' * 20}/{name}"
        listed[name] = {"filename": name, "raw_url": raw, "content": data.decode()}
    return json.dumps({"files": listed}).encode()


def test_a_gist_leads_to_the_named_file_or_the_one_with_a_block(trusting: Home, web: Server) -> None:
    page, number = f"https://gist.github.com/me/{'0a' * 16}", "0a" * 16
    raw = f"gist.githubusercontent.com/me/{number}/raw/{'b1' * 20}"
    api = f"api.github.com/gists/{number}"
    web.answers |= {
        f"{raw}/my_s.sh": sends(HELLO),
        f"{raw}/b.sh": sends(EMPTY),
        f"gist.github.com/me/{number}/raw": sends(EMPTY),
        f"{api}/{'c2' * 20}": sends(gist(b__sh=EMPTY)),
    }
    with tunnelling(web) as proxy:
        env = {"https_proxy": proxy, "no_proxy": ""}

        def run(url: str) -> str:
            done = trusting.cetool("run", "-y", url, env=env)
            return done.stdout.split(" ")[0] if done.returncode == 0 else f"{done.returncode} {done.stderr}"

        web.answers[api] = sends(gist(README__md=b"# how to\n", my_s__sh=HELLO))
        assert run(page) == "hello"
        assert run(f"{page}/{'c2' * 20}") == "ran"
        web.answers[api] = sends(gist(b__sh=EMPTY, my_s__sh=HELLO))
        assert run(f"{page}#file-b-sh") == "ran"
        assert run(f"{page}#file-my_s-sh-L1-L3") == "hello"
        several = run(page)
        assert several.startswith("2 ") and "#file-b-sh (b.sh), #file-my_s-sh (my_s.sh)" in several
        assert "no file with the anchor #file-c-sh" in run(f"{page}#file-c-sh")
        # without the API the first file is used, unless the link names another
        web.answers[api] = sends(b"{}", status=403)
        assert run(page) == "ran"
        assert run(f"{page}#file-b-sh").startswith("125 ")
        evil = gist(b__sh=EMPTY).replace(b"gist.githubusercontent.com", b"other.example")
        web.answers[api] = sends(evil)
        assert run(page) == "ran"
    assert not any(place.startswith("other.example") for place, _ in web.asked)


# --- careless input -------------------------------------------------------------------------------------------------


def test_careless_urls_give_one_clear_error(trusting: Home, web: Server) -> None:
    web.answers |= {
        "/page": sends(b"<html>", Content_Type="text/html"),
        "/o/r/blob/main/x.sh": sends(b"<html>", Content_Type="text/html"),
        "/binary": sends(b"\x7fELF\2\1\1\0\0"),
        "/login": leads_to("/page"),
        "/empty": sends(b""),
        "/text": sends(b"hello\n"),
        "/private": sends(status=401),
        "/huge": sends(length=1 << 30),
    }
    expected = [
        ("/page", 125, "leads to a web page"),
        ("/o/r/blob/main/x.sh", 125, "leads to a web page"),
        ("/login", 125, "/page: the URL leads to a web page"),
        ("/binary", 125, "NUL byte"),
        ("/empty", 125, "is empty"),
        ("/text", 125, "declares no environment"),
        ("/private", 125, "refuses access"),
        ("/huge", 125, "larger than 10 MiB"),
        ("/none", 127, "was not found on"),
        ("/a b.sh", 2, "an invalid character"),
    ]
    for path, status, words in expected:
        done = trusting.cetool("run", "--yes", f"{web.url}{path}")
        assert (done.returncode, words in told(done.stderr)[0]) == (status, True), done.stderr
    hint = told(trusting.cetool("run", f"{web.url}/o/r/blob/main/x.sh").stderr)[1]
    assert f"{web.url}/o/r/raw/main/x.sh" in hint
    for word in ("https:/host/x.sh", "github.com/o/r/blob/main/x.sh"):
        done = trusting.cetool("run", word)
        assert done.returncode == 127 and "https://" in told(done.stderr)[1]
    assert (names(answers(trusting)), names(copies(trusting))) == ([], [])
