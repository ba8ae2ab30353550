"""What Prometheus computes and warns of, and the objectives behind it; `monitoring.py` writes it down."""

from collections.abc import Iterator
from dataclasses import dataclass

RUNBOOK = "docs/monitoring.md"
DELIVERY_OBJECTIVE = 0.999  # of sends to members within 50 ms
AVAILABILITY_OBJECTIVE = 0.9999  # of messages and handshakes that did not fail over us
FAST = 'le="0.05"'
BRIEF = 'le="0.25"'  # of the pauses of hand-overs
# Errors and closes that are ours and not the peer's.
OUR_ERRORS = "internal|unavailable"
OUR_CLOSES = "1011|4000|4004"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
DAY_S = 86_400
# As long as the server's own warning: a renewal is tried again for weeks before that, and is broken by then.
CERTIFICATE_TICKET_DAYS, CERTIFICATE_PAGE_DAYS = 14, 2
# The SRE workbook, chapter 5: (burn rate, long window, short window); the first two wake somebody up.
BURNS = {"page": ((14.4, "1h", "5m"), (6, "6h", "30m")), "ticket": ((3, "1d", "2h"), (1, "3d", "6h"))}


def slo_ratio(kind: str, window: str) -> str:
    return f"job:realtime_{kind}:ratio_rate{window}"


@dataclass(frozen=True)
class Alert:
    """Fires when `looks_at` is beyond `limit` for `lasts`; `runbook` is the heading in docs/monitoring.md."""

    name: str
    looks_at: str
    limit: str  # with its comparison: "> 0.1"
    lasts: str
    severity: str
    says: str

    @property
    def expression(self) -> str:
        return f"{self.looks_at} {self.limit}" if self.limit else self.looks_at

    @property
    def runbook(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"


def p99(metric: str) -> str:
    return f"histogram_quantile(0.99, sum by (job, instance, le) (rate({metric}_bucket[5m])))"


def burning(kind: str, objective: float, severity: str) -> str:
    allowed = f"{1 - objective:.4g}"
    return " or ".join(
        f"({slo_ratio(kind, long)} > {factor} * {allowed} "
        f"and {slo_ratio(kind, short)} > {factor} * {allowed})"
        for factor, long, short in BURNS[severity]
    )


def recordings() -> Iterator[tuple[str, str]]:
    """Names and expressions of what is computed once for dashboards and alerts."""
    for window in WINDOWS:
        good = f"sum by (job) (rate(realtime_delivery_latency_seconds_bucket{{{FAST}}}[{window}]))"
        yield (
            slo_ratio("delivery_slow", window),
            f"1 - {good} / sum by (job) (rate(realtime_delivery_latency_seconds_count[{window}]))",
        )
    for window in WINDOWS:
        bad = (
            f'sum by (job) (rate(realtime_errors_total{{code=~"{OUR_ERRORS}"}}[{window}])) + '
            f'sum by (job) (rate(realtime_closes_total{{code=~"{OUR_CLOSES}"}}[{window}])) + '
            f"sum by (job) (rate(realtime_connections_refused_total[{window}]))"
        )
        asked = " + ".join(
            f"sum by (job) (rate(realtime_{name}_total[{window}]))"
            for name in ("messages_received", "handshakes", "connections_refused")
        )
        yield slo_ratio("unavailable", window), f"({bad}) / ({asked})"
    sent = " + ".join(
        f"sum by (job) (rate(realtime_{name}_total[5m]))" for name in ("deliveries", "unicast_frames")
    )
    yield (
        "job:realtime_frames_per_send:ratio_rate5m",
        f"({sent}) / sum by (job) (rate(realtime_sends_total[5m]))",
    )
    yield (
        "job:realtime_delivery_latency_seconds:p99_rate5m",
        "histogram_quantile(0.99, sum by (job, le) (rate(realtime_delivery_latency_seconds_bucket[5m])))",
    )


WHERE = "{{ $labels.instance }}"
CAUSES = (
    Alert(
        "RealtimeWorkerGone", 'up{job=~"realtime.*"}', "== 0", "1m", "page", f"{WHERE} is not to be scraped."
    ),
    Alert(
        "RealtimeWorkerDown",
        "realtime_worker_up",
        "== 0",
        "1m",
        "page",
        "Worker {{ $labels.worker }} of {{ $labels.instance }} is dead, or stands still.",
    ),
    Alert(
        "RealtimeWorkerRestarts",
        "increase(realtime_worker_restarts_total[15m])",
        "> 2",
        "0m",
        "ticket",
        "Worker {{ $labels.worker }} dies again and again.",
    ),
    Alert(
        "RealtimeLoopLag",
        "realtime_loop_lag_recent_seconds",
        "> 0.1",
        "5m",
        "page",
        f"The loop of {WHERE} is late.",
    ),
    Alert(
        "RealtimeSaturated",
        "realtime_utilization_ratio",
        "> 0.9",
        "10m",
        "ticket",
        f"{WHERE} has hardly room left.",
    ),
    Alert(
        "RealtimeSlowConsumers",
        "sum by (job, instance) (rate(realtime_slow_consumers_total[5m])) "
        "/ (sum by (job, instance) (realtime_connections) > 0)",
        "> 0.001",
        "10m",
        "ticket",
        f"{WHERE} cuts many that read too slowly.",
    ),
    Alert(
        "RealtimeFilesLow",
        'process_open_fds{job=~"realtime.*"} / process_max_fds',
        "> 0.9",
        "5m",
        "page",
        f"{WHERE} will soon be out of file descriptors.",
    ),
    Alert("RealtimeRedisAway", "realtime_redis_ok", "== 0", "30s", "page", f"{WHERE} cannot use Redis."),
    Alert(
        "RealtimeRedisSlow",
        p99("realtime_redis_command_seconds"),
        "> 0.25",
        "5m",
        "ticket",
        f"Redis is slow for {WHERE}.",
    ),
    Alert("RealtimeRingLost", "realtime_ring_ok", "== 0", "1m", "page", f"{WHERE} is not in the ring."),
    Alert(
        "RealtimeStoreFailing",
        "realtime_store_ok",
        "== 0",
        "1m",
        "page",
        f"The store of {WHERE} takes no rows.",
    ),
    Alert(
        "RealtimeStoreSlow",
        p99("realtime_store_commit_seconds"),
        "> 1",
        "10m",
        "ticket",
        f"Commits of {WHERE} are slow.",
    ),
    Alert(
        "RealtimeStoreBacklog",
        "realtime_store_queued_rows",
        "> 50000",
        "1m",
        "page",
        f"{WHERE} will soon refuse durable publications.",
    ),
    Alert(
        "RealtimeCertificateExpiresTicket",
        "realtime_tls_certificate_expires_seconds",
        f"< {CERTIFICATE_TICKET_DAYS * DAY_S}",
        "10m",
        "ticket",
        f"A TLS certificate of {WHERE} expires within {CERTIFICATE_TICKET_DAYS} days.",
    ),
    Alert(
        "RealtimeCertificateExpiresPage",
        "realtime_tls_certificate_expires_seconds",
        f"< {CERTIFICATE_PAGE_DAYS * DAY_S}",
        "5m",
        "page",
        f"A TLS certificate of {WHERE} expires within {CERTIFICATE_PAGE_DAYS} days, or has expired.",
    ),
    Alert(
        "RealtimeHandoverRefused",
        "increase(realtime_handovers_refused_total[15m])",
        "> 0",
        "0m",
        "ticket",
        f"A hand-over of {WHERE} came to nothing: the old process serves on.",
    ),
    Alert(
        "RealtimeHandoverPause",
        "sum by (job, instance) (increase(realtime_handover_pause_seconds_count[15m])) - "
        f"sum by (job, instance) (increase(realtime_handover_pause_seconds_bucket{{{BRIEF}}}[15m]))",
        "> 0",
        "0m",
        "ticket",
        f"A hand-over of {WHERE} served nobody for over 250 ms.",
    ),
    Alert(
        "RealtimeHandlerFailures",
        "increase(realtime_handler_failures_total[10m])",
        "> 0",
        "0m",
        "ticket",
        f"A handler of {WHERE} failed over a mistake of ours.",
    ),
)


def alerts() -> Iterator[Alert]:
    """All alerts. Burn rates wake people; causes mostly write tickets."""
    for severity in BURNS:
        yield Alert(
            f"RealtimeDeliverySlow{severity.title()}",
            burning("delivery_slow", DELIVERY_OBJECTIVE, severity),
            "",
            "1m",
            severity,
            "Deliveries over 50 ms use up the budget of {{ $labels.job }} too fast.",
        )
        yield Alert(
            f"RealtimeUnavailable{severity.title()}",
            burning("unavailable", AVAILABILITY_OBJECTIVE, severity),
            "",
            "1m",
            severity,
            "Failures of our own use up the budget of {{ $labels.job }} too fast.",
        )
    yield from CAUSES
