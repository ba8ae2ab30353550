"""What the dashboards show: panels, and the queries behind them; `monitoring.py` writes them down."""

from dataclasses import dataclass

from monitoring_rules import AVAILABILITY_OBJECTIVE, BRIEF, DELIVERY_OBJECTIVE, FAST, WINDOWS, slo_ratio

PICK = 'job="$job", instance=~"$instance"'


# ---------------------------------------------------------------- expressions


def rate(metric: str, labels: str = "") -> str:
    """What a counter rises by a second, of the chosen workers."""
    return f"rate({metric}{{{PICK}{', ' + labels if labels else ''}}}[$__rate_interval])"


def total(metric: str, by: str = "", labels: str = "") -> str:
    """The same of all of them together, or by a label."""
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, labels)})"


def now(metric: str, by: str = "") -> str:
    """A gauge, of all the chosen workers together, or by a label."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{PICK}}})"


def quantile(part: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram, estimated within its bucket."""
    also = f", {by}" if by else ""
    return f"histogram_quantile({part}, sum by (le{also}) ({rate(metric + '_bucket')}))"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (quantile(part, metric), name) for part, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
    )


# ---------------------------------------------------------------- dashboards


@dataclass(frozen=True)
class Panel:
    """A chart of some queries, each with its legend; `kind` is Grafana's word for it."""

    title: str
    targets: tuple[tuple[str, str], ...]
    unit: str = "short"
    help: str = ""
    kind: str = "timeseries"
    lines: tuple[float, ...] = ()  # thresholds


def one(title: str, expression: str, unit: str = "short", legend: str = "", **more: object) -> Panel:
    return Panel(title, ((expression, legend),), unit, **more)


OVERVIEW = (
    one("Workers up", 'sum(up{job="$job"})', legend="up", kind="stat"),
    one("Connections", now("realtime_connections"), kind="stat"),
    one(
        "Deliveries within 50 ms",
        f"{total('realtime_delivery_latency_seconds_bucket', labels=FAST)} "
        f"/ {total('realtime_delivery_latency_seconds_count')}",
        "percentunit",
        kind="stat",
    ),
    one("Connections by worker", now("realtime_connections", "instance"), legend="{{instance}}"),
    Panel(
        "Messages",
        (
            (total("realtime_messages_received_total"), "in"),
            (total("realtime_room_messages_total"), "to rooms"),
            (total("realtime_unicast_messages_total"), "to one connection"),
        ),
        "cps",
    ),
    one("Deliveries", total("realtime_deliveries_total"), "cps", "room messages times members"),
    Panel(
        "Delivery latency",
        quantiles("realtime_delivery_latency_seconds"),
        "s",
        "From the batch that read the frame to the end of the flush that sent it.",
        lines=(0.05,),
    ),
    Panel(
        "Bytes",
        ((total("realtime_received_bytes_total"), "in"), (total("realtime_sent_bytes_total"), "out")),
        "Bps",
    ),
    one("Utilization", f"realtime_utilization_ratio{{{PICK}}}", "percentunit", "{{instance}}", lines=(0.75,)),
    Panel(
        "Coming and going",
        (
            (total("realtime_connections_accepted_total"), "accepted"),
            (total("realtime_handshakes_total"), "let in"),
            (total("realtime_connections_closed_total"), "closed"),
        ),
        "cps",
    ),
    one("Closes by code", total("realtime_closes_total", "code"), "cps", "{{code}}"),
    one("Errors by code", total("realtime_errors_total", "code"), "cps", "{{code}}"),
    one("Limits hit", total("realtime_refusals_total", "limit"), "cps", "{{limit}}"),
    one("Asked to leave", total("realtime_asked_to_leave_total", "reason"), "cps", "{{reason}}"),
    one("Scaling signal", 'max(realtime_autoscale_signal{job=~"$job.*"})', legend="1 more, -1 fewer"),
    one("Handshakes", quantile(0.99, "realtime_handshake_seconds"), "s", "p99"),
)
WORKER = (
    one(
        "What is in use",
        f"max by (resource) (realtime_resource_utilization_ratio{{{PICK}}})",
        "percentunit",
        "{{resource}}",
    ),
    one("CPU", f"sum by (instance) ({rate('process_cpu_seconds_total')})", "percentunit", "{{instance}}"),
    Panel("Loop lag", quantiles("realtime_loop_lag_seconds"), "s", "How late ten ticks a second ran."),
    one("Memory", f"process_resident_memory_bytes{{{PICK}}}", "bytes", "{{instance}}"),
    one(
        "Memory per connection",
        f"realtime_memory_per_connection_bytes{{{PICK}}}",
        "bytes",
        "{{instance}}",
        help="Growth of the process since it had none; rooms, histories and queues are in it.",
    ),
    one(
        "Open files of those allowed",
        f"process_open_fds{{{PICK}}} / process_max_fds{{{PICK}}}",
        "percentunit",
        "{{instance}}",
    ),
    one(
        "Frames per send",
        f"({total('realtime_deliveries_total')} + {total('realtime_unicast_frames_total')}) "
        f"/ {total('realtime_sends_total')}",
        legend="coalescing",
        help="How many frames one call of send() carries: it rises with the load, and latency stays flat.",
    ),
    Panel(
        "Flush",
        quantiles("realtime_flush_seconds"),
        "s",
        "The sends of one flush, about flush_chunk of them.",
    ),
    one(
        "Time of a send",
        f"{total('realtime_flush_seconds_sum')} / {total('realtime_delivery_latency_seconds_count')}",
        "s",
        "mean",
    ),
    Panel(
        "Sends",
        ((total("realtime_sends_total"), "sends"), (total("realtime_sends_blocked_total"), "buffer full")),
        "cps",
    ),
    Panel(
        "Waiting",
        (
            (now("realtime_unicast_queued_bytes"), "unicast bytes"),
            (f"{now('realtime_room_log_chunks')} * 65536", "room logs, at most"),
        ),
        "bytes",
    ),
    Panel(
        "Epoll",
        ((total("realtime_polls_total"), "polls"), (total("realtime_poll_events_total"), "events")),
        "cps",
    ),
    Panel("Handshakes", quantiles("realtime_handshake_seconds"), "s"),
    Panel(
        "TLS handshakes",
        quantiles("realtime_tls_handshake_seconds"),
        "s",
        "From accept on tls_port to the end of the TLS handshake.",
    ),
    Panel(
        "TLS handshakes that failed",
        (
            (total("realtime_tls_handshake_failures_total"), "failed"),
            (total("realtime_tls_crowded_out_total"), "crowded out"),
        ),
        "cps",
    ),
    one(
        "TLS certificate expires in",
        f"min(realtime_tls_certificate_expires_seconds{{{PICK}}})",
        "s",
        kind="stat",
        help="The first of all; below 0 since it has.",
    ),
    Panel(
        "Turned away",
        (
            (total("realtime_handshakes_refused_total"), "refused"),
            (total("realtime_handshake_timeouts_total"), "too slow"),
            (total("realtime_connections_refused_total"), "full"),
            (total("realtime_arrivals_denied_total"), "by address"),
        ),
        "cps",
    ),
    one("Clients it can take back", now("realtime_returns_per_second", "instance"), "cps", "{{instance}}"),
    one("Log lines", total("realtime_log_lines_total", "level"), "cps", "{{level}}"),
    one(
        "Log lines not written",
        total("realtime_log_lines_dropped_total", "level, reason"),
        "cps",
        "{{level}} {{reason}}",
        help="rate: a place in the code said the same too often; write: nobody took the line.",
    ),
    one(
        "Hand-over under way",
        now("realtime_handover_phase", "instance"),
        legend="{{instance}}",
        help="1 the next process starts, 2 it is told, 3 nobody is served.",
    ),
    Panel(
        "Hand-overs",
        tuple(
            (f"sum (increase(realtime_{name}{{{PICK}}}[$__rate_interval]))", legend)
            for name, legend in (
                ("handovers_total", "done"),
                ("handovers_refused_total", "came to nothing"),
                ("handover_connections_drained_total", "connections closed"),
            )
        ),
        help="`realtime upgrade`: a process takes another's place.",
    ),
    one(
        "Hand-overs that served nobody for over 250 ms",
        f"{now('realtime_handover_pause_seconds_count')} "
        f"- sum (realtime_handover_pause_seconds_bucket{{{PICK}, {BRIEF}}})",
        legend="since the first of them",
    ),
    one("Restarts", "sum by (worker) (realtime_worker_restarts_total)", legend="{{worker}}"),
)
ROOMS = (
    one("Rooms", now("realtime_rooms", "instance"), legend="{{instance}}"),
    one("Members", now("realtime_members", "instance"), legend="{{instance}}"),
    one(
        "Members a message",
        f"{total('realtime_deliveries_total')} / {total('realtime_room_messages_total')}",
        legend="fan-out",
    ),
    one("Room messages", total("realtime_room_messages_total", "instance"), "cps", "{{instance}}"),
    one("Payload", total("realtime_room_messages_bytes_total"), "Bps", "into room logs"),
    one(
        "Delivery latency",
        total("realtime_delivery_latency_seconds_bucket", "le"),
        "s",
        "{{le}}",
        kind="heatmap",
    ),
    Panel(
        "Slow readers",
        (
            (total("realtime_slow_consumers_total"), "cut"),
            (total("realtime_skipped_total"), "skipped"),
            (total("realtime_parked_total"), "parked"),
            (total("realtime_gaps_total"), "told of a gap"),
        ),
        "cps",
    ),
    one("Dropped", total("realtime_dropped_messages_total"), "cps", "by their rooms' policy"),
    one("Read pauses", total("realtime_read_pauses_total"), "cps", "publishers that had to wait"),
    one("Rooms in memory", now("realtime_broker_rooms", "instance"), legend="{{instance}}"),
    one("Gaps", total("realtime_broker_lost_total"), "cps", "publications that could not be had"),
    one("Flush passes", total("realtime_flush_passes_total"), "cps"),
    one("Tenants: messages", total("realtime_tenant_messages_total", "tenant"), "cps", "{{tenant}}"),
    one("Tenants: connections", now("realtime_tenant_connections", "tenant"), legend="{{tenant}}"),
    one(
        "Tenants: refused",
        total("realtime_tenant_refusals_total", "tenant, limit"),
        "cps",
        "{{tenant}} {{limit}}",
    ),
)
REDIS = (
    one("Redis is whole", f"min(realtime_redis_ok{{{PICK}}})", kind="stat"),
    one("In the ring", f"min(realtime_ring_ok{{{PICK}}})", kind="stat"),
    one("Store takes rows", f"min(realtime_store_ok{{{PICK}}})", kind="stat"),
    Panel("Redis commands", quantiles("realtime_redis_command_seconds"), "s"),
    Panel(
        "Redis traffic",
        (
            (total("realtime_redis_replies_total"), "replies"),
            (total("realtime_redis_messages_total"), "messages"),
        ),
        "cps",
    ),
    one("Redis queue", now("realtime_redis_queued_bytes", "instance"), "bytes", "{{instance}}"),
    Panel(
        "Redis trouble",
        (
            (total("realtime_redis_retries_total"), "retries"),
            (total("realtime_redis_redirects_total"), "redirects"),
            (total("realtime_redis_connects_total"), "connects"),
            (total("realtime_redis_slot_changes_total"), "slots changed"),
        ),
        "cps",
    ),
    Panel(
        "Subscriptions",
        (
            (now("realtime_redis_subscriptions"), "wanted"),
            (now("realtime_redis_subscriptions_standing"), "standing"),
        ),
    ),
    one("Ring version", f"max by (instance) (realtime_ring_version{{{PICK}}})", legend="{{instance}}"),
    one("Workers in the ring", f"realtime_ring_workers{{{PICK}}}", legend="{{instance}}"),
    one("Slots owned", f"realtime_ring_owned_slots{{{PICK}}}", legend="{{instance}}"),
    Panel(
        "Rooms behind",
        (
            (now("realtime_broker_rooms_behind"), "behind"),
            (now("realtime_broker_questions"), "questions open"),
        ),
    ),
    Panel("Store commits", quantiles("realtime_store_commit_seconds"), "s"),
    Panel("Store questions", quantiles("realtime_store_read_seconds"), "s"),
    Panel(
        "Rows",
        (
            (total("realtime_store_rows_total"), "committed"),
            (total("realtime_store_failed_rows_total"), "failed"),
        ),
        "cps",
    ),
    one("Rows waiting", now("realtime_store_queued_rows", "instance"), legend="{{instance}}"),
)


def burn(kind: str, objective: float, window: str) -> str:
    """How many times faster than allowed the budget is used up."""
    return f'{slo_ratio(kind, window)}{{job="$job"}} / {1 - objective:.4g}'


def slo_panels(kind: str, title: str, objective: float) -> tuple[Panel, ...]:
    left = f'1 - {slo_ratio(kind, "3d")}{{job="$job"}} / {1 - objective:.4g}'
    return (
        one(
            f"{title}: good of the last 3 days",
            f'1 - {slo_ratio(kind, "3d")}{{job="$job"}}',
            "percentunit",
            kind="stat",
        ),
        one(f"{title}: budget left of 3 days", left, "percentunit", kind="stat"),
        Panel(
            f"{title}: burn rate, {objective:.2%} wanted",
            tuple((burn(kind, objective, window), window) for window in WINDOWS),
            help="1 uses the budget up in its whole period; 14.4 uses 2 % of a month's in an hour.",
            lines=(1, 6, 14.4),
        ),
        Panel(
            f"{title}: bad share",
            tuple((f'{slo_ratio(kind, window)}{{job="$job"}}', window) for window in ("5m", "1h", "6h")),
            "percentunit",
        ),
    )


SLO = (
    *slo_panels("delivery_slow", "Delivery < 50 ms", DELIVERY_OBJECTIVE),
    *slo_panels("unavailable", "Availability", AVAILABILITY_OBJECTIVE),
)
DASHBOARDS = {
    "overview": ("realtime: overview", OVERVIEW),
    "worker": ("realtime: worker", WORKER),
    "rooms": ("realtime: rooms", ROOMS),
    "redis": ("realtime: Redis and store", REDIS),
    "slo": ("realtime: objectives", SLO),
}
