"""Packages are identified by their digests, whatever package caches contain and channels and records claim."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from engines import install_fakes
from support.archive import Entry, Package, write_package, write_repodata
from support.home import Home
from support.lookalikes import STEM, Lookalike, make_lookalike, recorded, said
from support.server import serving

from cetool.declare.platforms import current_platform

WRONG_MD5, WRONG_SHA256 = "a" * 32, "a" * 64
ENGINES = ("rattler", "conda", "micromamba")


@pytest.fixture
def a(home: Home) -> Lookalike:
    """A channel."""
    return make_lookalike(home.path / "A", "A")


@pytest.fixture
def b(home: Home) -> Lookalike:
    """Another channel, with a different package under the same name."""
    return make_lookalike(home.path / "B", "B")


def created(home: Home, *args: str | Path) -> Path:
    """Return the prefix that ``cetool create`` makes, whose record must have the digests of the archive."""
    done = home.cetool("create", *args)
    assert done.returncode == 0, done.stderr
    prefix = Path(done.stdout.strip())
    record = recorded(prefix)
    if record["url"].startswith("file:"):
        data = Path(record["url"].removeprefix("file://")).read_bytes()
        assert record["sha256"] == hashlib.sha256(data).hexdigest()
        assert record["md5"] == hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert record["size"] == len(data)
    return prefix


def test_a_cache_filled_in_hostile_order_gives_the_requested_package(home: Home, a: Lookalike, b: Lookalike) -> None:
    """By name, digest, URL and path, in both formats, repeatedly."""
    with serving(home.path) as server:
        http = f"{server.url}/A"
        asked: list[tuple[tuple[str | Path, ...], str]] = [
            ((b.file(),), "B.conda"),
            (("--channel", a.url, "pkg ==1.9"), "A.conda"),
            (("--channel", b.url, "pkg ==1.9"), "B.conda"),
            (("--channel", http, "pkg ==1.9"), "A.conda"),
            (("--refresh", "--channel", b.url, "pkg ==1.9"), "B.conda"),
            (("--refresh", "--channel", a.url, "pkg ==1.9"), "A.conda"),
            ((b.file(".tar.bz2"),), "B.tar.bz2"),
            (("--channel", a.url, f"pkg[sha256={a.digest()}]"), "A.conda"),
            ((f"{server.url}/B/noarch/{STEM}.conda",), "B.conda"),
            ((f"{http}/noarch/{STEM}.tar.bz2#{a.digest('md5', '.tar.bz2')}",), "A.tar.bz2"),
            ((f"pkg[url='{b.file().as_uri()}', sha256={b.digest()}]",), "B.conda"),
        ]
        for args, says in asked:
            assert said(created(home, *args)) == says, args


def test_a_cache_entry_without_a_computed_digest_is_not_used(home: Home, a: Lookalike, b: Lookalike) -> None:
    """rattler, or an old cetool, leaves A's digest in ``repodata_record.json`` and ``.lock``."""
    from rattler.package_streaming import extract

    prefix = created(home, "--channel", a.url, "pkg")
    (entry,) = (path for path in home.cache.rglob(STEM) if path.is_dir())
    revision = entry.with_name(f"{STEM}.lock").read_bytes()
    for path in (entry, entry.with_name(f"{STEM}.cetool")):
        path.rename(path.with_name(f"{path.name}.old"))
    extract(b.file(), entry)
    claims = {**recorded(prefix), "sha256": a.digest(), "md5": a.digest("md5")}
    (entry / "info" / "repodata_record.json").write_text(json.dumps(claims), encoding="utf-8")
    entry.with_name(f"{STEM}.lock").write_bytes(revision)
    assert said(created(home, "--refresh", "--channel", a.url, "pkg")) == "A.conda"


def test_an_unpacked_package_whose_hashes_were_changed_is_fetched_again(home: Home, a: Lookalike) -> None:
    """Its ``info/paths.json`` has the hashes of its files, and must be the one in the archive."""
    created(home, "--channel", a.url, "pkg")
    (entry,) = (path for path in home.cache.rglob(STEM) if path.is_dir())
    listing = json.loads((entry / "info/paths.json").read_text())
    for path in listing["paths"]:
        new = (entry / path["_path"]).read_bytes().replace(b"A.conda", b"X.conda")
        (entry / path["_path"]).unlink()
        (entry / path["_path"]).write_bytes(new)
        path["sha256"] = hashlib.sha256(new).hexdigest()
    (entry / "info/paths.json").write_text(json.dumps(listing))
    assert said(created(home, "--refresh", "--channel", a.url, "pkg")) == "A.conda"


@pytest.mark.parametrize("over", ["file", "http"])
def test_repodata_with_a_wrong_digest_is_refused_and_nothing_is_cached(home: Home, a: Lookalike, over: str) -> None:
    make_lookalike(home.path / "liar", "liar", claims={"sha256": a.digest(), "md5": a.digest("md5")})
    with serving(home.path) as server:
        liar = (home.path / "liar").as_uri() if over == "file" else f"{server.url}/liar"
        done = home.cetool("create", "--channel", liar, "pkg")
    assert done.returncode == 125 and a.digest() in done.stderr, done.stderr
    script = home.write("locked.sh", f"# conda execute\n# channels: ['{a.url}']\n# env: [pkg]\n# run_with: cat\n")
    assert home.cetool("lock", script).returncode == 0
    name = home.cetool("path", "--locked", script)
    assert name.returncode == 0 and said(Path(name.stdout.strip())) == "A.conda", name.stderr
    assert home.cetool("verify", script).returncode == 0


@pytest.mark.parametrize("field", ["sha256", "md5", "size"])
def test_a_package_record_has_the_computed_digest(home: Home, field: str) -> None:
    """Also if the channel has no digest; a wrong MD5 with a correct SHA-256 is an error."""
    quiet = make_lookalike(home.path / "quiet", "quiet", claims={field: None})
    assert said(created(home, "--channel", quiet.url, "pkg")) == "quiet.conda"
    if field == "md5":
        make_lookalike(home.path / "wrong", "wrong", claims={"md5": WRONG_MD5})
        done = home.cetool("create", "--channel", (home.path / "wrong").as_uri(), "pkg")
        assert done.returncode == 125 and WRONG_MD5 in done.stderr


@pytest.mark.parametrize(
    "spec",
    [
        f"{{path}}#{WRONG_MD5}",
        f"{{url}}#sha256:{WRONG_SHA256}",
        f"{{url}}#{WRONG_SHA256}",
        f"pkg @ {{url}}#{WRONG_MD5}",
        f"pkg[url='{{url}}', sha256={WRONG_SHA256}]",
        f"pkg[url='{{url}}#{WRONG_MD5}']",
        f"{{url}}[md5={WRONG_MD5}]",
    ],
)
def test_a_url_with_a_wrong_digest_is_refused_and_both_digests_are_shown(settled: Home, spec: str) -> None:
    channel = make_lookalike(settled.path / "wrong-digest", "W")
    text = spec.format(path=channel.file(), url=channel.file().as_uri())
    done = settled.cetool("create", text)
    found = channel.digest("md5" if WRONG_SHA256 not in text else "sha256")
    assert done.returncode == 125 and found in done.stderr and "aaaaaaaaaa" in done.stderr, done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_verifies_urls_in_every_place(home: Home, a: Lookalike, engine: str) -> None:
    """In blocks of each dialect, ``--with``, ``exec``, environment files and explicit files."""
    install_fakes(home.bin, "conda", "micromamba")
    url = f"{a.file().as_uri()}#sha256:{WRONG_SHA256}"
    script = home.write("plain.sh", f"# conda execute\n# channels: ['{a.url}']\n# env: [pkg]\n# run_with: cat\n")
    toml = f'url = "{a.file().as_uri()}", sha256 = "{WRONG_SHA256}"'
    bad = [
        ("run", home.write("one.sh", f"# conda execute\n# env: ['{url}']\n# run_with: cat\n")),
        ("run", "--with", url, script),
        ("exec", "--spec", url, "pkg"),
        ("exec", url),
        ("create", "--file", home.write("e.yml", f"channels: ['{a.url}']\ndependencies: ['{url}']\n")),
        ("create", "--file", home.write("e.txt", f"@EXPLICIT\n{url}\n")),
        (
            "run",
            home.write(
                "two.sh",
                "# /// conda-script\n"
                f"# channels = ['{a.url}']\n# entrypoint = 'cat'\n# [dependencies]\n# pkg = {{ {toml} }}\n"
                "# /// end-conda-script\n",
            ),
        ),
    ]
    for words in bad:
        done = home.cetool(words[0], "--engine", engine, *words[1:])
        assert done.returncode == 125, (words, done.stderr)
        assert a.digest() in done.stderr and WRONG_SHA256 in done.stderr, (words, done.stderr)


def test_a_pipe_instead_of_a_package_does_not_block(settled: Home) -> None:
    path = settled.path / "pipe-1.0-0.conda"
    os.mkfifo(path)
    done = settled.cetool("create", path, timeout=60)
    assert done.returncode == 125 and "not a regular file" in done.stderr


def test_a_package_file_can_be_given_by_a_relative_path(home: Home, a: Lookalike) -> None:
    """Relative to the working directory on the command line, and to the script's directory in a block."""
    here = a.file().parent
    absolute = created(home, a.file())
    for word in (f"./{STEM}.conda", f"{STEM}.conda", f"../noarch/{STEM}.conda", f"~/A/noarch/{STEM}.conda"):
        done = home.cetool("create", word, cwd=here)
        assert done.stdout.strip() == str(absolute), done.stderr
    script = home.write("A/noarch/run.sh", f"# conda execute\n# env: [./{STEM}.conda]\n# run_with: cat\n")
    done = home.cetool("path", script)
    assert done.stdout.strip() == str(absolute), done.stderr


@pytest.mark.parametrize("path", ["/tmp/cetool-outside", "../outside", "a/../../outside", "a\nb"])
def test_a_package_with_paths_outside_its_prefix_is_refused(settled: Home, path: str) -> None:
    """Before rattler links it, which for some paths aborts the process."""
    root = settled.path / f"reaches-{hashlib.md5(path.encode()).hexdigest()[:8]}"
    entries = (Entry("share/inside", b""), Entry(path, b"x"))
    write_package(Package("reaches", "1.0", entries=entries), root)
    done = settled.cetool("create", root / "noarch" / "reaches-1.0-0.conda")
    assert done.returncode == 125 and "panicked" not in done.stderr, done.stderr
    assert "reaches-1.0-0.conda" in done.stderr and not Path("/tmp/cetool-outside").exists()


def test_a_python_that_places_packages_outside_the_prefix_is_refused(settled: Home) -> None:
    """The channel sets the directory of Python packages."""
    for number, place in enumerate(("../../cetool-outside", "/tmp/cetool-outside")):
        root = settled.path / f"leads-{number}"
        python = Package("python", "3.12.0", subdir="noarch", extra={"python_site_packages_path": place})
        module = Package("mod", "1.0", (Entry("site-packages/mod.py"),), ("python",), noarch="python")
        records = {f"{each.stem}.conda": write_package(each, root) for each in (python, module)}
        write_repodata(records, "noarch", root)
        for subdir in ("linux-64", "linux-aarch64", "osx-arm64", "osx-64"):
            write_repodata({}, subdir, root)
        done = settled.cetool("create", "--channel", root, "mod")
        assert done.returncode == 125 and "python-3.12.0-0.conda" in done.stderr and "outside" in done.stderr
    assert not list(settled.cache.rglob("cetool-outside")) and not Path("/tmp/cetool-outside").exists()


@pytest.mark.parametrize("limit", [12, 24, 40])
def test_a_low_limit_on_open_files_is_an_error_without_a_panic(settled: Home, limit: int) -> None:
    program = f'ulimit -n {limit}; exec "$0" -m cetool create many-files'
    done = settled.run("/bin/sh", "-c", program, sys.executable)
    assert done.returncode == 125 and "ulimit -n" in done.stderr, done.stderr
    assert "panick" not in done.stderr and "Traceback" not in done.stderr


def test_an_explicit_file_gives_exactly_its_packages(home: Home, a: Lookalike) -> None:
    """CEP 23: comments, both digests with and without a prefix, paths from the working directory, no solver."""
    install_fakes(home.bin, "conda", "micromamba")
    other = Package("other", "1.0", (Entry("share/other"),), ("absent >=1",))
    write_package(other, a.root)
    file = home.write(
        "elsewhere/explicit.txt",
        f"# a comment\n# platform: {current_platform()}\n\n  @EXPLICIT \n"
        f"A/noarch/{STEM}.conda#{a.digest()}\n{(a.root / 'noarch').as_uri()}/other-1.0-0.conda\n",
    )
    assert home.cetool("name", "--file", file).returncode == 0
    for engine in ENGINES:
        done = home.cetool("create", "--engine", engine, "--refresh", "--file", file, cwd=home.path)
        assert done.returncode == 0, done.stderr
        prefix = Path(done.stdout.strip())
        assert said(prefix) == "A.conda" and recorded(prefix)["sha256"] == a.digest()
        assert "other" in done.stderr  # it has no digest
    done = home.cetool("create", "--file", file, "pkg")
    assert done.returncode == 2 and "explicit.txt" in done.stderr
    home.write("elsewhere/explicit.txt", f"@EXPLICIT\n{a.file()}#{a.digest('md5')}\n")
    done = home.cetool("create", "--file", file)
    assert done.returncode == 0 and said(Path(done.stdout.strip())) == "A.conda"


def test_a_baseline_with_another_file_of_the_same_name_conflicts_with_a_url(
    home: Home, a: Lookalike, b: Lookalike
) -> None:
    baseline = home.write("base.txt", f"@EXPLICIT\n{a.file().as_uri()}#{a.digest()}\n")
    assert said(created(home, "--baseline", baseline, a.file())) == "A.conda"
    for word in (b.file(), f"pkg[sha256={b.digest()}]"):
        done = home.cetool("create", "--baseline", baseline, "--channel", b.url, word)
        assert done.returncode == 125 and "conflicts with the baseline" in done.stderr, done.stderr


@pytest.mark.parametrize("engine", ["conda", "micromamba"])
def test_packages_cached_by_other_engines_are_compared_with_their_archives(
    home: Home, a: Lookalike, b: Lookalike, engine: str
) -> None:
    """Their package caches belong to the user: B's files under A's name, and a channel with wrong digests."""
    from rattler.package_streaming import extract

    install_fakes(home.bin, "conda", "micromamba")
    cache = home.path / "pkgs"
    env = {"CONDA_PKGS_DIRS": str(cache)}
    with serving(home.path) as server:
        for channel in (a.url, f"{server.url}/A"):
            entry = cache / STEM
            for path in (*cache.glob(f"{STEM}*"),):
                path.unlink() if path.is_file() else shutil.rmtree(path)
            cache.mkdir(exist_ok=True)
            extract(b.file(), entry)
            shutil.copy(b.file(), cache)
            done = home.cetool("create", "-v", "--refresh", "--engine", engine, "--channel", channel, "pkg", env=env)
            assert done.returncode == 0, done.stderr
            prefix = Path(done.stdout.strip())
            assert said(prefix) == "A.conda" and recorded(prefix)["sha256"] == a.digest()
            assert "Fetching packages again" in done.stderr
    make_lookalike(home.path / "liar", "liar", claims={"sha256": a.digest(), "md5": a.digest("md5")})
    done = home.cetool("create", "--engine", engine, "--channel", (home.path / "liar").as_uri(), "pkg", env=env)
    assert done.returncode == 125 and a.digest() in done.stderr, done.stderr
