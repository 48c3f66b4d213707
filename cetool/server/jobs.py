"""Work of requests that takes long, in threads of its own: threads of handlers stay free, and none delays a stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from cetool.base.errors import CetoolError

_T = TypeVar("_T")


class Jobs:
    """Runs ``at_once`` jobs at the same time; as many as ``waiting`` wait, and others are refused."""

    def __init__(self, name: str, at_once: int, waiting: int) -> None:
        self._name = name
        self._turn = threading.Semaphore(at_once)
        self._left = threading.Semaphore(at_once + waiting)

    def start(self, work: Callable[[], _T]) -> Future[_T]:
        """Begin with the work when it is its turn. Raises CetoolError with the code ``rate-limited``."""
        if not self._left.acquire(blocking=False):
            raise CetoolError(f"too many requests wait: {self._name}", code="rate-limited", hint="Try again later.")
        future: Future[_T] = Future()
        threading.Thread(target=self._run, args=(future, work), name=self._name, daemon=True).start()
        return future

    def _run(self, future: Future[_T], work: Callable[[], _T]) -> None:
        try:
            with self._turn:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work())
                    except BaseException as error:
                        future.set_exception(error)
        finally:
            self._left.release()
