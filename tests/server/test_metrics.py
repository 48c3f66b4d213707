"""``/metrics``, ``/health`` and ``/celery``: what watches a server gets what it needs, and no one else does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support.home import Home
from support.serving import RunningServer, running_server

from cetool.server.metrics import COUNTERS, GAUGES

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
OLD_PROMETHEUS = "text/plain;version=0.0.4"


@pytest.fixture(scope="module")
def server(settled: Home) -> Iterator[RunningServer]:
    with running_server(settled, data=settled.path / "metrics") as server:
        yield server


def families(text: str) -> list[Metric]:
    """All metrics of a text, with their samples."""
    return list(text_string_to_metric_families(text))


def sample(server: RunningServer, name: str, **labels: str) -> float | None:
    """The value of a metric."""
    text = server.get("/metrics", token=None, headers={"Accept": OLD_PROMETHEUS}).text
    found = (each for family in families(text) for each in family.samples)
    return next((each.value for each in found if each.name == name and labels.items() <= each.labels.items()), None)


def test_each_metric_has_help_and_a_type(server: RunningServer) -> None:
    text = server.get("/metrics", token=None, headers={"Accept": OLD_PROMETHEUS}).text
    assert text.endswith("\n")
    found = families(text)
    assert len(found) > 20
    assert [each.name for each in found if not each.documentation or each.type == "unknown"] == []


def test_the_reference_lists_each_metric_with_its_type_and_labels(server: RunningServer) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reference/server-metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(cetool_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    server.get(f"/cetool/1/answers/linux-64/{'0' * 64}")
    found = families(server.get("/metrics", token=None, headers={"Accept": OLD_PROMETHEUS}).text)
    assert {each.name for each in found if each.name.startswith("cetool_")} - listed.keys() == set()
    for each in found:
        if each.name in listed:
            labels = {label for sample in each.samples for label in sample.labels} - {"le"}
            assert each.type == listed[each.name][0] and labels <= listed[each.name][1], each.name
        elif each.name.startswith("conda_store_"):
            assert f"`{each.name}`" in page
    known = {f"cetool_{name}" for name in (*COUNTERS, *GAUGES)}
    assert known <= listed.keys()


def test_prometheus_gets_openmetrics_if_it_asks(server: RunningServer) -> None:
    answer = server.get("/metrics", token=None, headers={"Accept": PROMETHEUS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "cetool_builds" in {each.name for each in read_openmetrics(answer.text)}  # type: ignore[no-untyped-call]


def test_conda_stores_gauges_are_read_by_splitting_lines(server: RunningServer) -> None:
    lines = server.get("/metrics", token=None).text.split("\n")
    values = {line.split()[0]: line.split()[1] for line in lines}
    statuses = ("queued", "building", "completed", "failed", "canceled")
    wanted = {f"conda_store_{name}" for name in ("disk_free", "disk_total", "disk_usage", "environments")}
    assert wanted | {f"conda_store_build_{status}" for status in statuses} <= values.keys()
    assert float(values["conda_store_disk_total"]) > float(values["conda_store_disk_free"]) > 0


def test_requests_are_counted_by_the_template_of_their_path(server: RunningServer) -> None:
    for _ in range(3):
        server.get("/cetool/1", token=None)
    server.get("/no/such/path", token=None)
    assert (sample(server, "cetool_http_requests_total", route="/cetool/1", status="200") or 0) >= 3
    assert sample(server, "cetool_http_requests_total", route="other", status="404")
    assert sample(server, "cetool_http_request_seconds_count", route="/cetool/1")


def test_hostile_methods_do_not_become_labels(server: RunningServer) -> None:
    server.request("EVIL123", "/cetool/1", token=None)
    text = server.get("/metrics", token=None).text
    assert "EVIL123" not in text and 'method="other"' in text


def test_health_says_that_the_server_works(server: RunningServer) -> None:
    answer = server.get("/health", token=None)
    assert answer.status == 200
    assert answer.json["status"] == "ok" and answer.json["problems"] == [] and answer.json["version"]


def test_celery_has_the_keys_that_conda_stores_clients_expect(server: RunningServer) -> None:
    found = server.get("/celery", token=None).json
    assert found.keys() == {"active_tasks", "availability", "registered_tasks", "scheduled_tasks", "stats"}


def test_health_fails_if_the_disk_has_less_room_than_builds_need(home: Home) -> None:
    env = {"CETOOL_SERVER_STORAGE_THRESHOLD": "100000TB"}
    with pytest.raises(RuntimeError, match="does not work"), running_server(home, env=env):
        pass


def test_behind_a_proxy_metrics_need_a_token_but_health_does_not(home: Home) -> None:
    with running_server(home, "--behind-proxy") as server:
        assert server.get("/metrics", token=None).status == 401
        assert server.get("/celery", token=None).status == 401
        assert server.get("/health", token=None).status == 200
    with running_server(home, "--behind-proxy", env={"CETOOL_SERVER_PUBLIC_METRICS": "true"}) as server:
        assert server.get("/metrics", token=None).status == 200
