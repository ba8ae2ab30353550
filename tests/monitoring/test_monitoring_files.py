"""Dashboards and rules are what scripts/monitoring.py makes, name metrics that there are, and fire when they
should: each alert on series of its own, and not on good ones.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from realtime.errors import CloseCode, error_codes
from realtime.features import discover
from tests.conftest import ROOT
from tests.monitoring.scripts import load

METRIC = re.compile(r"\b(?:realtime|process)_[a-z0-9_]+")


rules = load("monitoring_rules")
panels = load("monitoring_panels")
monitoring = load("monitoring")
docs = load("docs")
RECORDED = dict(rules.recordings())
ALERTS = {alert.name: alert for alert in rules.alerts()}
DELIVERIES = "realtime_delivery_latency_seconds"


def told() -> set[str]:
    """The names of all metrics that there are, by the page that is made of them."""
    names = set(re.findall(r"^\| `([a-z0-9_]+)` \|", docs.metrics_page(), re.M))
    histograms = set(re.findall(r"^\| `([a-z0-9_]+)` \| histogram", docs.metrics_page(), re.M))
    return names | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def queries() -> dict[str, str]:
    found = {
        f"{name}: {panel.title}: {legend}": expression
        for name, (_, shown) in panels.DASHBOARDS.items()
        for panel in shown
        for expression, legend in panel.targets
    }
    return found | RECORDED | {name: alert.expression for name, alert in ALERTS.items()}


def test_the_files_are_what_the_script_makes():
    for name, text in monitoring.pages().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run `make monitoring`"
    made = set(monitoring.pages())
    there = {path.relative_to(ROOT) for path in (ROOT / monitoring.FOLDER).rglob("*") if path.is_file()}
    assert there == made


@pytest.mark.parametrize("name", queries())
def test_every_metric_that_is_named_exists(name: str):
    query = queries()[name]
    known = told()
    for record in RECORDED:
        query = query.replace(record, "")
    for metric in METRIC.findall(query):
        assert metric in known, query


def test_the_codes_that_are_ours_are_codes():
    discover()
    assert set(rules.OUR_ERRORS.split("|")) <= set(error_codes())
    assert {int(code) for code in rules.OUR_CLOSES.split("|")} <= set(CloseCode)


def test_a_dashboard_says_where_its_variables_come_from():
    for name in panels.DASHBOARDS:
        text = json.dumps(monitoring.dashboard(name))
        for variable in set(re.findall(r"\$\{?([a-z_]+)\}?", text)) - {"__rate_interval", "__all"}:
            assert f'"name": "{variable}"' in text, f"{name}: {variable}"


def test_prometheus_takes_rules_and_configuration():
    folder = ROOT / monitoring.FOLDER
    for command in (["rules", "rules.yml"], ["config", "prometheus.yml"]):
        done = subprocess.run(
            ["promtool", "check", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_place_in_the_runbook():
    page = (ROOT / rules.RUNBOOK).read_text(encoding="utf-8")
    for alert in ALERTS.values():
        assert f"\n### {alert.name}\n" in page


# ---------------------------------------------------------------- each alert fires, and is silent

WHERE = 'job="realtime", instance="a:1"'


def counts(name: str, by_minute: float, labels: str = "") -> dict[str, str]:
    return series(name, f"0+{by_minute}x200", labels)


def series(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {"series": f"{name}{{{WHERE}{', ' + labels if labels else ''}}}", "values": values}


def deliveries(slow_part: float) -> list[dict[str, str]]:
    return [
        counts(f"{DELIVERIES}_bucket", round(10_000 * (1 - slow_part)), 'le="0.05"'),
        counts(f"{DELIVERIES}_bucket", 10_000, 'le="+Inf"'),
        counts(f"{DELIVERIES}_count", 10_000),
    ]


def requests(bad_part: float) -> list[dict[str, str]]:
    return [
        counts("realtime_messages_received_total", 100_000),
        counts("realtime_handshakes_total", 0),
        counts("realtime_connections_refused_total", 0),
        counts("realtime_errors_total", round(100_000 * bad_part), 'code="internal"'),
        counts("realtime_errors_total", 5_000, 'code="forbidden"'),  # the peers' own are no failure of ours
        counts("realtime_closes_total", 0, 'code="4000"'),
    ]


def constant(name: str, value: float, labels: str = "") -> list[dict[str, str]]:
    return [series(name, f"{value}x200", labels)]


def slow(name: str, le: str, slow_part: float) -> list[dict[str, str]]:
    return [
        counts(f"{name}_bucket", round(1000 * (1 - slow_part)), f'le="{le}"'),
        counts(f"{name}_bucket", 1000, 'le="2.5"'),
        counts(f"{name}_bucket", 1000, 'le="+Inf"'),
    ]


def pauses(brief: float) -> list[dict[str, str]]:
    """One hand-over a minute, so many of them brief."""
    name = "realtime_handover_pause_seconds"
    return [counts(f"{name}_bucket", brief, 'le="0.25"'), counts(f"{name}_count", 1)]


Series = list[dict[str, str]]
# What it fires on, what it does not, and the labels that it has beside those of WHERE.
CASES: dict[str, tuple[Series, Series, dict[str, str]]] = {
    "RealtimeDeliverySlowPage": (deliveries(0.05), deliveries(0.005), {"instance": ""}),
    "RealtimeDeliverySlowTicket": (deliveries(0.005), deliveries(0.0005), {"instance": ""}),
    "RealtimeUnavailablePage": (requests(0.005), requests(0.0005), {"instance": ""}),
    "RealtimeUnavailableTicket": (requests(0.0005), requests(0.00005), {"instance": ""}),
    "RealtimeWorkerGone": (constant("up", 0), constant("up", 1), {}),
    "RealtimeWorkerDown": (
        constant("realtime_worker_up", 0, 'worker="2"'),
        constant("realtime_worker_up", 1, 'worker="2"'),
        {"worker": "2"},
    ),
    "RealtimeWorkerRestarts": (
        [counts("realtime_worker_restarts_total", 1, 'worker="2"')],
        [counts("realtime_worker_restarts_total", 0, 'worker="2"')],
        {"worker": "2"},
    ),
    "RealtimeLoopLag": (
        constant("realtime_loop_lag_recent_seconds", 0.2),
        constant("realtime_loop_lag_recent_seconds", 0.01),
        {},
    ),
    "RealtimeSaturated": (
        constant("realtime_utilization_ratio", 0.95),
        constant("realtime_utilization_ratio", 0.5),
        {},
    ),
    "RealtimeSlowConsumers": (
        [*constant("realtime_connections", 100), counts("realtime_slow_consumers_total", 60)],
        [*constant("realtime_connections", 100), counts("realtime_slow_consumers_total", 1)],
        {},
    ),
    "RealtimeFilesLow": (
        [*constant("process_open_fds", 950), *constant("process_max_fds", 1000)],
        [*constant("process_open_fds", 500), *constant("process_max_fds", 1000)],
        {},
    ),
    "RealtimeRedisAway": (constant("realtime_redis_ok", 0), constant("realtime_redis_ok", 1), {}),
    "RealtimeRedisSlow": (
        slow("realtime_redis_command_seconds", "0.25", 0.05),
        slow("realtime_redis_command_seconds", "0.25", 0.0),
        {},
    ),
    "RealtimeRingLost": (constant("realtime_ring_ok", 0), constant("realtime_ring_ok", 1), {}),
    "RealtimeStoreFailing": (constant("realtime_store_ok", 0), constant("realtime_store_ok", 1), {}),
    "RealtimeStoreSlow": (
        slow("realtime_store_commit_seconds", "1", 0.05),
        slow("realtime_store_commit_seconds", "1", 0.0),
        {},
    ),
    "RealtimeStoreBacklog": (
        constant("realtime_store_queued_rows", 60_000),
        constant("realtime_store_queued_rows", 100),
        {},
    ),
    "RealtimeCertificateExpiresTicket": (
        constant("realtime_tls_certificate_expires_seconds", 13 * 86_400),
        constant("realtime_tls_certificate_expires_seconds", 15 * 86_400),
        {},
    ),
    "RealtimeCertificateExpiresPage": (
        constant("realtime_tls_certificate_expires_seconds", -60),
        constant("realtime_tls_certificate_expires_seconds", 3 * 86_400),
        {},
    ),
    "RealtimeHandoverRefused": (
        [counts("realtime_handovers_refused_total", 1)],
        [counts("realtime_handovers_refused_total", 0)],
        {},
    ),
    "RealtimeHandoverPause": (pauses(0), pauses(1), {}),
    "RealtimeHandlerFailures": (
        [counts("realtime_handler_failures_total", 1)],
        [counts("realtime_handler_failures_total", 0)],
        {},
    ),
}


def test_every_alert_has_its_case():
    assert CASES.keys() == ALERTS.keys()


def fires(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """The alert as it is expected, its templates filled in."""
    alert = ALERTS[name]
    of = {"job": "realtime", "instance": "a:1", **labels}
    of = {label: value for label, value in of.items() if value}
    says = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: of[found[1]], alert.says)
    return {
        "exp_labels": {**of, "severity": alert.severity},
        "exp_annotations": {"summary": says, "runbook": alert.runbook},
    }


def judged(tmp_path: Path, kind: str, tests: list[dict[str, Any]]) -> None:
    """Have promtool run unit tests on those of the rules whose names have `kind`; all alerts without one.

    Only on those: every rule is computed at every minute of every test.
    """
    shipped = [rule for group in monitoring.rules()["groups"] for rule in group["rules"]]
    burning = ("delivery_slow", "unavailable")
    chosen = [rule for rule in shipped if kind and kind in rule.get("record", rule["expr"])]
    if not kind:
        chosen = [rule for rule in shipped if "alert" in rule and not any(b in rule["expr"] for b in burning)]
    rule_file, test_file = tmp_path / "rules.yml", tmp_path / "tests.yml"
    rule_file.write_text(json.dumps({"groups": [{"name": "chosen", "rules": chosen}]}))
    test_file.write_text(json.dumps({"rule_files": [str(rule_file)], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", test_file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def cases(names: list[str], at: str) -> list[dict[str, Any]]:
    """For each alert one test in which it fires at a time, and one in which it does not."""
    made = []
    for name in names:
        firing, quiet, labels = CASES[name]
        for given, expected in ((firing, [fires(name, labels)]), (quiet, [])):
            asked = {"eval_time": at, "alertname": name, "exp_alerts": expected}
            made.append({"name": name, "interval": "1m", "input_series": given, "alert_rule_test": [asked]})
    return made


BURNING = {"delivery_slow": "RealtimeDeliverySlow", "unavailable": "RealtimeUnavailable"}


@pytest.mark.parametrize("kind", BURNING)
def test_a_budget_that_burns_fires_and_one_that_does_not_is_silent(tmp_path: Path, kind: str):
    judged(tmp_path, kind, cases([name for name in CASES if name.startswith(BURNING[kind])], "125m"))


def test_every_other_alert_fires_when_it_should_and_is_silent_when_not(tmp_path: Path):
    names = [name for name in CASES if not name.startswith(tuple(BURNING.values()))]
    judged(tmp_path, "", cases(names, "20m"))


def test_a_burst_that_is_over_wakes_nobody(tmp_path: Path):
    """Ten bad minutes are in the long windows long after they have left the short ones."""
    given = [
        series(f"{DELIVERIES}_bucket", "0+10000x60 600000+0x9 610000+10000x90", 'le="0.05"'),
        counts(f"{DELIVERIES}_count", 10_000),
    ]
    name = "RealtimeDeliverySlowPage"
    asked = [
        {"eval_time": "68m", "alertname": name, "exp_alerts": [fires(name, {"instance": ""})]},
        {"eval_time": "105m", "alertname": name, "exp_alerts": []},
    ]
    tests = [{"interval": "1m", "input_series": given, "alert_rule_test": asked}]
    judged(tmp_path, "delivery_slow", tests)
