"""Fixtures of tests of clients: a server that tests tell what to answer, and an environment that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.answering import AnsweringServer, answering
from support.home import Home

from cetool.remote.records import BuildRecord


@pytest.fixture
def answers() -> Iterator[AnsweringServer]:
    """A server that knows nothing yet."""
    with answering() as running:
        yield running


@pytest.fixture
def solved(settled: Home, answers: AnsweringServer) -> BuildRecord:
    """The record of ``cetool create hello-bin``, solved on another machine; the server has its packages, no answer."""
    done = settled.cetool("create", "hello-bin", "--no-server")
    assert done.returncode == 0, done.stderr
    return answers.record(Path(done.stdout.strip()))


@pytest.fixture
def away(home: Home, answers: AnsweringServer) -> Home:
    """A user of the server who cannot reach a channel."""
    answers.log_in(home)
    home.condarc.write_text("channel_alias: http://127.0.0.1:9\nchannels: [conda-forge]\n")
    return home


@pytest.fixture
def member(home: Home, answers: AnsweringServer) -> Home:
    """A user of the server who can reach the channel."""
    answers.log_in(home)
    return home
