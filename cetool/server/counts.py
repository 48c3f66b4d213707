"""Know how this process is doing, for ``/metrics`` and ``/health``: counters, gauges, and parts that show life."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping

#: Upper bounds of the buckets of request times, and of build times, in seconds.
REQUEST_TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BUILD_TIMES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
#: The most combinations of labels, so that no client fills the memory.
_MOST = 5000

Labels = tuple[str, ...]


class Times:
    """How often something took up to each bucket's time, and how long in all."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The cumulative counts, as Prometheus wants them."""
        found, sum_ = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            sum_ += count
            found.append((bound, float(sum_)))
        return found


class Counts:
    """Counters and gauges by name and labels; threads may share it."""

    def __init__(self) -> None:
        self.builds = Times(BUILD_TIMES)
        #: The end of the last build in ``builds``, by the database's clock.
        self.counted_until = time.time()
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[str, float] = {}
        self._requests: dict[Labels, Times] = {}
        self._beats: dict[str, tuple[float, float]] = {}

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Count, under a name of :data:`cetool.server.metrics.COUNTERS`."""
        with self._lock:
            key = (name, labels)
            if key in self._counts or len(self._counts) < _MOST:
                self._counts[key] = self._counts.get(key, 0) + amount

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is the template of its path."""
        self.add("http_requests", method, route, str(status))
        with self._lock:
            times = self._requests.get((route,))
            if times is None:
                times = self._requests[(route,)] = Times(REQUEST_TIMES)
            times.add(seconds)

    def set(self, name: str, value: float) -> None:
        """Set a gauge of :data:`cetool.server.metrics.GAUGES`."""
        with self._lock:
            self._gauges[name] = value

    def beat(self, part: str, within: float) -> None:
        """Note that a background part works, and will say so again ``within`` seconds."""
        with self._lock:
            self._beats[part] = (time.monotonic(), within)

    def rest(self, part: str) -> None:
        """Note that a part has stopped as it should."""
        with self._lock:
            self._beats.pop(part, None)

    def silent(self) -> list[tuple[str, float]]:
        """Return the parts that did not say in time that they work, and for how many seconds."""
        now = time.monotonic()
        with self._lock:
            return [(part, now - at) for part, (at, within) in self._beats.items() if now - at > within]

    def gauges(self) -> Mapping[str, float]:
        """Return all gauges."""
        with self._lock:
            return dict(self._gauges)

    def count_builds(self, ended: Iterable[tuple[float, float]]) -> None:
        """Count builds that ended: when, and how many seconds they took; those already counted do not count again."""
        with self._lock:
            before = self.counted_until
            for end, seconds in ended:
                if end > before:
                    self.builds.add(max(0.0, seconds))
                    self.counted_until = max(self.counted_until, end)

    def counters(self) -> Mapping[tuple[str, Labels], float]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)

    def requests(self) -> Mapping[Labels, tuple[list[tuple[str, float]], float]]:
        """Return the buckets of request times, and their sum, by route."""
        with self._lock:
            return {labels: (times.buckets, times.total) for labels, times in self._requests.items()}
