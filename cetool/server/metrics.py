"""Say how a server is doing: metrics for Prometheus, and what is wrong. :mod:`.web.monitoring` has the routes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cetool import __version__
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError
from cetool.server.data.database import now
from cetool.server.data.schema import (
    STATUSES,
    UNFINISHED,
    answer,
    build,
    environment,
    lock,
    namespace,
    realization,
    token,
)
from cetool.server.server import Server

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: Counters by name: their labels, and what they count.
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "http_requests": (("method", "route", "status"), "Requests by the template of their path."),
    "answers": (("result",), "Answers that clients asked for: hit, not_modified, running, miss."),
    "build_retries": ((), "Builds that were returned to the queue after a crash or a network failure."),
    "leases_lost": ((), "Builds whose builder did not renew its lease in time."),
    "collected_bytes": ((), "Bytes freed by collections."),
    "collections": (("result",), "Collections: done or failed."),
}
#: Gauges that parts of the server set.
GAUGES = {
    "watched_files": "Files that become environments.",
    "watched_files_refused": "Watched files that cannot be built.",
    "watched_paths_unreadable": "Watched paths that cannot be read.",
    "watched_paths_polled": "Watched paths that are scanned regularly, since the system sends no events.",
    "data_bytes": "Bytes that the data directory takes, each hard-linked file counted once.",
    "data_measured_timestamp_seconds": "When data_bytes was measured.",
    "collected_timestamp_seconds": "When the last collection ended.",
}
_TABLES = {
    "environments": (environment, "Environments."),
    "namespaces": (namespace, "Namespaces."),
    "realizations": (realization, "Environments on disk, one for each lock."),
    "locks": (lock, "Lists of exact packages."),
    "stored_answers": (answer, "Requests that have an answer."),
}
#: Seconds within which the database must answer a health check.
_PATIENCE = 5.0


def exposition(server: Server, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their media type: Prometheus's text, or OpenMetrics if ``accept`` asks for it."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # 60 ms at the start that nothing else needs
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(server))
    encode, kind = choose_encoder(accept)
    text: bytes = encode(registry)
    if "version=" not in accept:
        # conda-store's text has no line feed at its end, and its clients read lines by splitting; Prometheus, which
        # needs the line feed, asks for a version
        text = text.rstrip(b"\n")
    return text, kind


def workers(server: Server) -> dict[str, Any]:
    """Return what conda-store says about its workers, as far as this server's builders have the same."""
    name, count = f"cetool@{server.id}", server.config.workers
    with server.database.read() as tx:
        running = list(tx.scalars(sa.select(build.c.id).where(build.c.status == "BUILDING").order_by(build.c.id)))
        done = tx.scalar(sa.select(sa.func.count()).where(build.c.status == "COMPLETED"))
    return {
        "availability": {name: {"ok": "pong"}} if count else None,
        "stats": {name: {"total": {"build": done}, "pool": {"max-concurrency": count}}},
        "registered_tasks": {name: ["build"]},
        "active_tasks": {name: [{"id": str(each), "name": "build"} for each in running]},
        "scheduled_tasks": {name: []},
    }


# --- health ---------------------------------------------------------------------------------------------------------


def problems(server: Server) -> Iterator[str]:
    """Yield what is wrong, in one sentence each."""
    started = time.monotonic()
    try:
        with server.database.read() as tx:
            tx.execute(sa.select(sa.func.max(build.c.id)))
    except (CetoolError, sa.exc.SQLAlchemyError) as error:
        yield f"the database cannot be read ({error.code if isinstance(error, CetoolError) else type(error).__name__})"
    else:
        if (seconds := time.monotonic() - started) > _PATIENCE:
            yield f"the database took {seconds:.0f} s to answer"
    least = server.config.storage_threshold
    try:
        free = shutil.disk_usage(server.config.data).free
    except OSError as error:
        yield f"the data directory cannot be read: {error.strerror}"
    else:
        if least is not None and free < least:
            yield f"the disk has {format_size(free)} left; builds need {format_size(least)}"
    ended = 0 if server.dispatcher is None else server.dispatcher.ended()
    if ended:
        yield f"{ended} of {server.config.workers} builders ended"
    for part, seconds in server.counts.silent():
        yield f"the {part} has not worked for {seconds:.0f} s"


# --- metrics --------------------------------------------------------------------------------------------------------


class _Collector:
    """What Prometheus's library calls for the metrics of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._of_process()
        yield from self._of_database()
        yield from self._of_disk()

    def _of_process(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily

        counts = self._server.counts
        yield InfoMetricFamily("cetool", "This server.", {"version": __version__, "server": self._server.id})
        found = counts.counters()
        for name, (labels, text) in COUNTERS.items():
            counter = CounterMetricFamily(f"cetool_{name}", text, labels=labels)
            for (other, values), value in found.items():
                if other == name:
                    counter.add_metric(values, value)
            if not labels and (name, ()) not in found:
                counter.add_metric((), 0)
            yield counter
        gauges = counts.gauges()
        for name, text in GAUGES.items():
            if name in gauges:
                yield _gauge(name, text, gauges[name])
        times = HistogramMetricFamily("cetool_http_request_seconds", "Time to answer, by route.", labels=("route",))
        for route, (buckets, total) in counts.requests().items():
            times.add_metric(route, buckets, total)
        yield times

    def _of_database(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

        counts = self._server.counts
        with self._server.database.read() as tx:
            time_now = now(tx)
            grouped = tx.execute(sa.select(build.c.status, sa.func.count()).group_by(build.c.status))
            by_status = {**dict.fromkeys(STATUSES, 0), **{status: number for status, number in grouped}}
            waiting = sa.select(sa.func.min(build.c.scheduled)).where(build.c.status == "QUEUED")
            oldest = tx.scalar(waiting)
            tables = {
                name: tx.scalar(sa.select(sa.func.count()).select_from(each)) for name, (each, _) in _TABLES.items()
            }
            used = tx.scalar(sa.select(sa.func.count()).where(token.c.revoked.is_(None), _valid(time_now)))
            ended = tx.execute(
                sa.select(build.c.ended, build.c.started).where(
                    build.c.ended > counts.counted_until,
                    build.c.ended <= time_now,
                    build.c.started.is_not(None),
                    build.c.status.not_in(UNFINISHED),
                )
            ).all()
        counts.count_builds([(end, end - start) for end, start in ended])
        states = GaugeMetricFamily("cetool_builds", "Builds by status.", labels=("status",))
        for status, number in by_status.items():
            states.add_metric((status,), number)
        yield states
        yield _gauge("queue_oldest_seconds", "How long the oldest build waits.", time_now - oldest if oldest else 0)
        yield _gauge("workers", "Builds that can run at once.", self._server.config.workers)
        for name, number in tables.items():
            yield _gauge(name, _TABLES[name][1], number)
        yield _gauge("tokens", "Tokens and sessions that are valid.", used)
        lasted = HistogramMetricFamily("cetool_build_seconds", "How long builds took that ended since the start.")
        lasted.add_metric((), counts.builds.buckets, counts.builds.total)
        yield lasted
        for status, number in by_status.items():
            yield _old_gauge(f"build_{status.lower()}", f"Builds that are {status}.", number)
        yield _old_gauge("environments", "Environments.", tables["environments"])

    def _of_disk(self) -> Iterator[Metric]:
        disk = shutil.disk_usage(self._server.config.data)
        used = self._server.counts.gauges().get("data_bytes", 0)
        yield _gauge("disk_free_bytes", "Free bytes on the disk of the data directory.", disk.free)
        yield _gauge("disk_total_bytes", "Size of the disk of the data directory.", disk.total)
        yield _old_gauge("disk_free", "Free bytes on the disk of the data directory.", disk.free)
        yield _old_gauge("disk_total", "Size of the disk of the data directory.", disk.total)
        yield _old_gauge("disk_usage", "Bytes that the data directory takes.", used)


def _valid(time_now: float) -> sa.ColumnElement[bool]:
    return sa.or_(token.c.expires.is_(None), token.c.expires > time_now)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"cetool_{name}", text, value or 0)


def _old_gauge(name: str, text: str, value: float | None) -> Metric:
    """Return a gauge under conda-store's name."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"conda_store_{name}", text, value or 0)
