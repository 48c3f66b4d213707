"""Find packages in channels, by a process that keeps their metadata while it is used."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.base.errors import CetoolError
from cetool.base.process import own_program
from cetool.server.builds.child import environ_of_children

#: Seconds that a search may take, wait for another one, and after which an idle process ends.
_PATIENCE, _TURN, _IDLE = 30.0, 5.0, 120.0
#: The most bytes of an answer.
_LONGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """The packages that a search found."""

    #: How many names were found.
    count: int
    #: Of the wanted part of the names: channel, name and versions, the oldest first.
    packages: tuple[tuple[str, str, tuple[str, ...]], ...]


class ChannelSearch:
    """Searches for a server; threads may share it."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._used = 0.0

    def find(self, channels: Sequence[str], text: str, *, exact: bool, part: slice) -> Found:
        """Return the packages whose names contain a text, or are it; versions only of a part of the names.

        Raises CetoolError if the channels cannot be read, or take too long.
        """
        if not self._turn.acquire(timeout=_TURN):
            raise CetoolError("other searches take too long", code="rate-limited", hint="Try again later.")
        try:
            answer = self._ask(
                {
                    "channels": list(channels),
                    "text": text,
                    "exact": exact,
                    "offset": part.start,
                    "limit": part.stop - part.start,
                }
            )
        except OSError as error:
            self._end()
            raise CetoolError(
                f"the search in the channels failed: {error.strerror}", code="channel-unreachable"
            ) from None
        except BaseException:
            self._end()
            raise
        finally:
            self._used = time.monotonic()
            self._turn.release()
        if "error" in answer:
            raise CetoolError(answer["error"], code="channel-unreachable")
        packages = tuple((channel, name, tuple(versions)) for channel, name, versions in answer["packages"])
        return Found(answer["count"], packages)

    def _ask(self, search: Mapping[str, Any]) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        os.write(process.stdin.fileno(), json.dumps(search).encode() + b"\n")
        deadline, answer = time.monotonic() + _PATIENCE, bytearray()
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise CetoolError("the search in the channels took too long", code="channel-unreachable")
            data = os.read(process.stdout.fileno(), 1 << 16)
            answer += data
            if not data or len(answer) > _LONGEST:
                raise CetoolError("the search in the channels failed", code="channel-unreachable")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._process = subprocess.Popen(
            own_program(module="cetool.app.searching"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environ_of_children(), "CETOOL_CACHE_DIR": str(self._data)},
            start_new_session=True,
        )
        threading.Thread(target=self._end_if_idle, name="search", daemon=True).start()
        return self._process

    def _end_if_idle(self) -> None:
        process = self._process
        while process is not None and process.poll() is None:
            time.sleep(_IDLE / 4)
            with self._turn:
                if process is self._process and time.monotonic() - self._used > _IDLE:
                    self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
