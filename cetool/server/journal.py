"""The server's log on standard error: one line for each event, as logfmt or JSON."""

from __future__ import annotations

import json
import re
import sys
import threading
import traceback
from datetime import datetime, timezone
from typing import Any, TextIO

#: Longer values are cut.
_MOST = 4000
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,;~*%()\[\]-]+")


class Journal:
    """Writes events from any thread. Never raises: a closed standard error does not stop the server."""

    def __init__(self, form: str = "text", *, requests: bool = False, stream: TextIO | None = None) -> None:
        self._json = form == "json"
        #: Whether each request is an event.
        self.requests = requests
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Write an event with its fields, without those that are None."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        known = {name: _short(value) for name, value in fields.items() if value is not None}
        if self._json:
            line = json.dumps({"at": now, "event": event, **known}, ensure_ascii=True, default=str)
        else:
            line = " ".join([f"at={now} event={event}", *(f"{name}={_quoted(value)}" for name, value in known.items())])
        try:
            with self._lock:
                stream = self._stream or sys.stderr
                stream.write(f"{line}\n")
                stream.flush()
        except (OSError, ValueError, AttributeError):
            return

    def defect(self, error: BaseException, **fields: Any) -> None:
        """Write an exception that nothing expected, with its traceback."""
        text = "".join(traceback.format_exception(error)).rstrip("\n")
        self.write("defect", error=f"{type(error).__name__}: {error}", traceback=text, **fields)


def _short(value: Any) -> Any:
    return f"{value[:_MOST]}..." if isinstance(value, str) and len(value) > _MOST else value


def _quoted(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
