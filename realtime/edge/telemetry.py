"""What /metrics says, from plain counters that cost nothing until they are asked for."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final, Literal

from realtime.core.quotas import OF_TENANTS
from realtime.edge.load import Load
from realtime.edge.logs import line_counts
from realtime.edge.metrics import Distribution, Metric, Sample, counter, gauge
from realtime.errors import CloseCode
from realtime.features import discover
from realtime.native.histogram import BOUNDS_S

# The hub's name -> our metric without its prefix, and what it says.
HUB_COUNTERS: Final = {
    "accepted": ("connections_accepted_total", "Sockets accepted, whatever became of them."),
    "handshakes": ("handshakes_total", "WebSocket handshakes completed."),
    "refused": ("handshakes_refused_total", "Requests answered with an HTTP error by the hub."),
    "handed_over": ("http_connections_total", "Sockets handed over to the HTTP side."),
    "closed": ("connections_closed_total", "Connections that have ended."),
    "adopted": ("connections_adopted_total", "Connections taken over from another process."),
    "released": ("connections_released_total", "Connections that another process has taken over."),
    "frames_in": ("frames_received_total", "WebSocket frames received, control frames included."),
    "messages_in": ("messages_received_total", "Whole WebSocket messages received."),
    "bytes_in": ("received_bytes_total", "Bytes received from clients."),
    "pings_in": ("pings_received_total", "Ping frames received."),
    "pongs_in": ("pongs_received_total", "Pong frames received."),
    "unicasts": ("unicast_frames_total", "Frames queued for a single connection, control frames included."),
    "messages_out": ("unicast_messages_total", "Messages queued for a single connection."),
    "appended": ("room_messages_total", "Messages appended to room logs, each once."),
    "appended_bytes": ("room_messages_bytes_total", "Payload bytes appended to room logs."),
    "deliveries": ("deliveries_total", "Room messages times the members they were meant for."),
    "bytes_out": ("sent_bytes_total", "Bytes the kernel took for clients."),
    "sends": ("sends_total", "Calls of send() and its kin."),
    "blocked": ("sends_blocked_total", "Sends that found the socket's buffer full."),
    "polls": ("polls_total", "Calls of epoll_wait()."),
    "events": ("poll_events_total", "Socket events found by them."),
    "wakes": ("wakes_total", "Turns of the hub in the event loop."),
    "passes": ("flush_passes_total", "Flush passes over a room's members."),
    "pauses": ("read_pauses_total", "Times a connection was not read because it was behind."),
    "slow_consumers": ("slow_consumers_total", "Connections cut because they read too slowly (4001)."),
    "dropped": (
        "dropped_messages_total",
        "Publications that slow members did not get, by their room's policy.",
    ),
    "gaps": ("gaps_total", "Times that a slow member was told what it had missed."),
    "skipped": ("skipped_total", "Times that a slow member skipped the oldest of what it lacked."),
    "held_back": ("held_back_total", "Times that a connection of a tenant over its rates had to wait."),
    "parked": ("parked_total", "Times that a slow member was parked until it read again."),
    "heartbeat_timeouts": ("heartbeat_timeouts_total", "Connections cut because they fell silent (4002)."),
    "handshake_timeouts": ("handshake_timeouts_total", "Handshakes or authentications not done in time."),
    "rate_limited": ("rate_limited_total", "Frames over their connection's rates."),
    "accept_rests": ("accept_rests_total", "Times that accepting rested over accepts_per_second."),
    "full": ("connections_refused_total", "Connections over max_connections (HTTP 503)."),
    "aged": ("connections_aged_total", "Connections closed at max_connection_age_s (4006)."),
    "denied_arrivals": ("arrivals_denied_total", "Sockets closed for the address they came from."),
    "recorder_refused": (
        "recorder_refused_total",
        "Connections not recorded because rings had recorder_memory_bytes.",
    ),
    "protocol_errors": ("protocol_errors_total", "Connections that broke RFC 6455."),
}
HUB_GAUGES: Final = {
    "connections": ("connections", "Open sockets of the hub, handshakes under way included."),
    "queued_bytes": ("unicast_queued_bytes", "Unicast bytes that wait for slow sockets."),
    "connection_bytes": ("connection_struct_bytes", "Memory of one idle connection's struct."),
    "members": ("members", "Members of rooms, each connection once for each of its rooms."),
    "recordings": ("recorder_connections", "Connections whose last frames are recorded."),
    "recorder_bytes": ("recorder_ring_bytes", "Memory of the rings that they are recorded in."),
    "chunks": ("room_log_chunks", "Chunks of room logs held in memory."),
}
CORE_COUNTERS: Final = {
    "failures": ("handler_failures_total", "Handlers that failed over our own mistakes."),
    "denied": (
        "denied_total",
        "Requests that the rules, or a room's kind, did not allow, and members put out.",
    ),
}
CORE_GAUGES: Final = {
    "sessions": ("sessions", "Connections that have spoken."),
    "tenants": ("tenants", "Tenants with connections here."),
    "rooms": ("rooms", "Rooms with members here."),
    "passive_members": ("passive_members", "Members that get counts instead of messages, in each room."),
    "lingering_users": ("lingering_users", "Users without a connection who may come back, in each room."),
    "room_token_sessions": ("room_token_sessions", "Connections that are in private rooms."),
    "acks_owed": ("acks_owed", "Publications received whose commit is waited for."),
}
# What backends count, `_total` for a counter; which of it there is depends on what
# the server stands on.
BACKEND_HELP: Final = {
    "audit_coalesced_total": "Audit events that became part of another one's count.",
    "audit_dropped_total": "Audit entries dropped for their age.",
    "audit_entries_total": "Audit entries kept.",
    "audit_events_total": "Events that the audit log was told of.",
    "audit_groups_total": "Groups of audit entries committed.",
    "audit_lost_total": "Audit events that could not be kept.",
    "audit_ok": "1 while the audit log takes entries, 0 while it fails.",
    "audit_queued_entries": "Audit entries that wait to be committed.",
    "broker_failures_total": "Times that a durable room had to look what the store has kept.",
    "store_failed_rows_total": "Rows that the store gave up.",
    "store_refused_rows_total": "Rows that came too late: their room had gone on in a later epoch.",
    "store_groups_total": "Groups of rows committed.",
    "store_reconnects_total": "Connections to PostgreSQL made anew.",
    "store_rows_total": "Rows committed.",
    "broker_durable_rooms": "Durable rooms that are loaded.",
    "broker_history_bytes": "Bytes of publications held in memory for recovery.",
    "broker_idle_rooms": "Rooms held in memory that nobody is in.",
    "broker_in_flight": "Publications that the store has not told of yet.",
    "broker_keys": "Idempotency keys remembered.",
    "broker_rooms": "Rooms held in memory.",
    "broker_unknown_rooms": "Durable rooms that have still to find out what the store has kept.",
    "broker_waiting": "Publications that wait for their rooms to be loaded.",
    "storage_refused_total": "Durable publications refused because their tenant keeps as much as it may.",
    "storage_tenants": "Tenants whose stored bytes are known.",
    "geo_failures_total": "Look-ups that found the database of countries broken.",
    "geo_ok": "1 while the database of countries answers, 0 while it does not.",
    "token_key_fetches_total": "Times that issuers were asked for their keys.",
    "token_key_failures_total": "Of these those that brought none.",
    "tokens_remembered": "Verified tokens in memory, room tokens included.",
    "store_ok": "1 while the store takes rows, 0 while it fails.",
    "store_queued_bytes": "Bytes that wait to be committed.",
    "store_queued_rows": "Rows that wait to be committed.",
    "sealing_masters_missing": "Master keys that data keys need and that are not configured.",
    "sealing_opened_total": "Messages and rows of encrypted rooms that were opened.",
    "sealing_sealed_total": "Messages, rows and their keys that were sealed.",
    "sealing_tenants": "Tenants whose data keys are at hand.",
    "sealing_tenants_without_key": "Tenants of them whose newest key cannot be had.",
    "sealing_unreadable_total": "Times that something sealed could not be read: a lost key, or tampering.",
}
# What the guard counts.
GUARD_HELP: Final = {
    "connected_addresses": "Addresses that have connections here; in IPv6 networks of one.",
    "penalized_addresses": "Addresses that are kept out now, by what they did here or elsewhere.",
    "penalties_total": "Times that an address was kept out for what it did here.",
    "suspect_addresses": "Addresses that are remembered for what they did.",
}
# What the flight recorder counts.
RECORDER_HELP: Final = {
    "recorder_files_total": "Recordings written to recorder_dir.",
    "recorder_file_bytes_total": "Bytes of them.",
    "recorder_dropped_total": "Recordings not written: over recorder_files_per_minute, or too many waited.",
    "recorder_failures_total": "Recordings that could not be written.",
    "recorder_taken_total": "Recordings that operators took.",
}
# The same of a worker of a cluster.
CLUSTER_HELP: Final = {
    "broker_gaps_total": "Times that a room had to ask Redis for what it had not heard.",
    "broker_holes": "Rows of durable rooms that have still to be written, as their first writing failed.",
    "broker_lost_total": "Publications that could not be had any more: gaps.",
    "broker_mended_total": "Rows that were written later.",
    "broker_questions": "Questions of rooms to Redis, asked and waiting.",
    "broker_refused_total": "Publications refused because Redis was away, or too much waited.",
    "broker_repeats_total": "Repeats of a key that were looked up in the store.",
    "broker_rooms_behind": "Rooms whose subscription does not stand, or that still ask for what they missed.",
    "broker_strange_total": "Messages on rooms' channels that are none of ours.",
    "broker_waiting_bytes": "Bytes of publications that wait for Redis.",
    "commands_again_total": "Times that a command had to look for its room's owner again.",
    "commands_forwarded_total": "Commands given to the worker that owns their room.",
    "commands_running": "Commands whose handlers wait here.",
    "commands_total": "Commands handled here, as the owner of their rooms.",
    "commands_waiting": "Commands that wait for their rooms to have an owner.",
    "headcount_evictions_total": "Connections found to be too many for their tenant over all workers.",
    "headcount_failures_total": "Times that Redis could not be told of a tenant's connections.",
    "headcount_tenants": "Tenants connected here, as counted for all workers.",
    "inbox_answering": "Questions of other workers that are being answered.",
    "inbox_asked": "Questions to other workers that wait for an answer.",
    "inbox_timeouts_total": "Questions to other workers that got no answer in time.",
    "kicked_total": "Connections closed by kicks and revocations.",
    "redis_connections": "Connections to Redis that stand.",
    "redis_connects_total": "Connections to Redis made.",
    "redis_function_loads_total": "Times that a node of Redis was given our functions.",
    "redis_masters": "Masters of Redis that are known.",
    "redis_messages_total": "Messages received on Redis' channels.",
    "redis_ok": "1 while every slot of Redis has a master that answers.",
    "redis_queued_bytes": "Bytes that wait to be written to Redis.",
    "redis_redirects_total": "Commands that Redis sent to another node.",
    "redis_replies_total": "Replies of Redis.",
    "redis_retries_total": "Commands tried again.",
    "redis_retrying": "Commands that wait to be tried again.",
    "redis_slot_changes_total": "Times that slots were found with another master.",
    "redis_subscriptions": "Channels subscribed to.",
    "redis_subscriptions_standing": "Of these those whose subscription stands.",
    "revocations": "Revocations in force.",
    "ring_changes_total": "Changes of the ring.",
    "ring_lost_leases_total": "Times that this worker could not beat in time, and owned nothing.",
    "ring_ok": "1 while this worker is in the ring.",
    "ring_owned_slots": "Slots that this worker owns, of 16,384.",
    "ring_version": "Version of the ring: the fence of owners.",
    "ring_workers": "Workers in the ring.",
    "whereabouts_evictions_total": "Connections found to be one too many over all workers.",
    "whereabouts_failures_total": "Times that Redis could not be told of a user's connections.",
    "whereabouts_users": "Users connected here.",
    "whereabouts_waiting": "Users of whom Redis has still to be told.",
}
NO_TENANTS: Final[Mapping[str, Mapping[str, float]]] = {}
TENANT_HELP: Final[Mapping[str, tuple[Literal["counter", "gauge"], str]]] = {
    "connections": ("gauge", "A tenant's connections here."),
    "rooms": ("gauge", "A tenant's rooms with members here."),
    "messages": ("counter", "Messages taken of a tenant."),
    "bytes": ("counter", "Bytes of payloads taken of a tenant."),
    "deliveries": ("counter", "Deliveries that a tenant's publications were charged."),
}
HANDOVER_HELP: Final = {
    "handovers_total": "Hand-overs from one process to the next, since the first of them.",
    "handovers_refused_total": "Hand-overs that came to nothing: the process served on.",
    "handover_connections_adopted_total": "Connections that moved from one process to the next.",
    "handover_connections_drained_total": "Connections that could not move and were closed (1012).",
    "handover_phase": "Of a hand-over: 1 the next process starts, 2 it is told, 3 nobody is served; 0: none.",
}
# How many clients come and go between workers.
MOVING_HELP: Final = {
    "handshake_cost_seconds": "Processor time that letting one client in is reckoned to cost.",
    "returns_per_second": "Clients a second that this worker can take back beside its work, as reckoned.",
}
# The same of a worker that traces messages.
TRACING_HELP: Final = {
    "spans_total": "Spans that were recorded.",
    "spans_left_out_total": "Spans not recorded: over traced_spans_per_second.",
    "spans_dropped_total": "Spans recorded and dropped: the queue to the collector was full.",
    "spans_sent_total": "Spans that the collector took.",
    "spans_failed_total": "Spans that the collector did not take.",
    "spans_queued": "Spans that wait for the collector.",
}
# The same of a worker with a `tls_port`.
TLS_HELP: Final = {
    "tls_arrivals": "Clients of tls_port that are in their handshake, or have sent no whole request yet.",
    "tls_certificate_expires_seconds": "Until the first certificate expires; below 0 since it has.",
    "tls_crowded_out_total": "Clients cut because tls_arrivals_max others came after them.",
    "tls_handshake_failures_total": "TLS handshakes that came to nothing.",
}
# What is measured, by the name of its source: our metric without its prefix and unit, and what it says.
TIMINGS: Final = {
    "deliveries": (
        "delivery_latency_seconds",
        "From the beginning of the batch that read the oldest publication of a send to the end of the flush "
        "that made the send; one for each send to a member. Members whose sockets are full are sent it "
        "later, and are not in here; what came by Redis counts from when this worker had it.",
    ),
    "flushes": ("flush_seconds", "How long the sends of one flush took, at most about flush_chunk of them."),
    "handover_pauses": (
        "handover_pause_seconds",
        "For how long hand-overs served nobody, since the first of them.",
    ),
    "handshakes": (
        "handshake_seconds",
        "From accept to the answer that lets a connection in, of those without TLS.",
    ),
    "loop_lag": ("loop_lag_seconds", "How late the loop ran its ten ticks a second."),
    "redis_command": (
        "redis_command_seconds",
        "From when Redis was asked to its answer, waiting, redirects and retries included.",
    ),
    "store_commit": ("store_commit_seconds", "How long committing one group of rows took."),
    "tls_handshakes": (
        "tls_handshake_seconds",
        "From accept on tls_port to the end of the TLS handshake, of those that came to one.",
    ),
    "store_read": ("store_read_seconds", "How long a question to the store took, waiting included."),
}
OTHER: Final = "other"
CODES: Final = frozenset(int(code) for code in CloseCode)

Taken = tuple[Sequence[int], float]
"""A histogram as `native.histogram.Histogram.taken` gives it."""


class Closes:
    """Connections that have ended, by close code; those that are not ours or RFC 6455's count as one."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {**{str(code): 0 for code in sorted(CODES)}, OTHER: 0}

    def note(self, code: int) -> None:
        """Count one."""
        self.counts[str(int(code)) if code in CODES else OTHER] += 1


class Memory:
    """What connections cost: how much the process has grown since it had none, divided by how many it has."""

    def __init__(self) -> None:
        self._before = resident_bytes()

    def per_connection(self, connections: int) -> float:
        """In bytes; 0 without connections. Rooms, histories and queues are in it."""
        return max(0.0, (resident_bytes() - self._before) / connections) if connections else 0.0


def worker_metrics(
    hub: Mapping[str, int],
    core: Mapping[str, float],
    *,
    refusals: Mapping[str, int],
    arrivals: Mapping[str, int],
    offences: Mapping[str, int],
    node: str,
    version: str,
    http: int,
    errors: Mapping[str, int],
    closes: Mapping[str, int],
    leaving: Mapping[str, int],
    timings: Mapping[str, Taken],
    load: Load,
    connection_bytes: float = 0.0,
    tenants: Mapping[str, Mapping[str, float]] = NO_TENANTS,
) -> Iterator[Metric]:
    """Everything one worker has to say.

    `refusals` are by the name of the limit, `arrivals` (those refused) by the reason, `offences` by name,
    `errors` and `closes` by code, `leaving` (who was asked to) by the reason; `timings` by the names of
    `TIMINGS`; `http` is the number of open HTTP connections; `tenants` those that the settings name, each
    with its numbers.
    """
    about = {"node": node, "version": version}
    yield Metric("realtime_info", "This worker.", "gauge", (Sample(1, about),))
    yield from _named(hub, HUB_COUNTERS, HUB_GAUGES)
    yield from _named(core, CORE_COUNTERS, CORE_GAUGES)
    yield _labelled("errors", "Messages answered with an error, by its code.", "code", errors)
    help = "WebSocket connections that have ended, by close code."
    yield _labelled("closes", help, "code", closes)
    help = "Connections that were asked to leave and come back, mostly to another worker, by the reason."
    yield _labelled("asked_to_leave", help, "reason", leaving)
    help = "Messages and connections refused over a limit, or closed over it."
    yield _labelled("refusals", help, "limit", refusals)
    yield from tenant_metrics(tenants)
    help = "Clients refused for the address they came from, by the reason."
    yield _labelled("address_refusals", help, "reason", arrivals)
    help = "What ended connections and counts against their addresses, by its name."
    yield _labelled("offences", help, "offence", offences)
    known = CORE_COUNTERS.keys() | CORE_GAUGES.keys()
    for name in sorted(core.keys() - known):  # a backend's own
        yield _by_name(name, core[name])
    yield gauge("realtime_http_connections", "Open HTTP connections.", http)
    for source, (name, help) in TIMINGS.items():
        if source in timings:
            counts, total_s = timings[source]
            yield Metric(f"realtime_{name}", help, "histogram", (Distribution(BOUNDS_S, counts, total_s),))
    yield from load_metrics(load)
    help = "Growth of the process since it had none, by connection, rooms and queues included: of thousands."
    yield gauge("realtime_memory_per_connection_bytes", help, connection_bytes)
    yield from process_metrics()


def load_metrics(load: Load) -> Iterator[Metric]:
    """How much is in use, and the parts of that."""
    help = "Greatest of realtime_resource_utilization_ratio: 1 is all there is."
    yield gauge("realtime_utilization_ratio", help, load.utilization)
    help = "What was in use in the last ten seconds: of the loop's time, cores, connections and accept rate."
    parts = tuple(Sample(ratio, {"resource": name}) for name, ratio in load.parts.items())
    yield Metric("realtime_resource_utilization_ratio", help, "gauge", parts)
    help = "How late the loop was of late: the median of the worst of each of the last ten seconds."
    yield gauge("realtime_loop_lag_recent_seconds", help, load.lag_s)


def _labelled(name: str, help: str, label: str, counts: Mapping[str, int]) -> Metric:
    samples = tuple(Sample(count, {label: value}) for value, count in sorted(counts.items()))
    return Metric(f"realtime_{name}_total", help, "counter", samples)


def api_metrics(stats: Mapping[str, int]) -> Iterator[Metric]:
    """Everything a process has to say that serves features' HTTP alone."""
    for name in sorted(stats):
        yield _by_name(name, stats[name])
    yield from process_metrics()


@cache
def features_help() -> Mapping[str, str]:
    """What features count: each says it itself."""
    return {name: help for feature in discover() for name, help in feature.metrics.items()}


def _by_name(name: str, value: float) -> Metric:
    help = (
        BACKEND_HELP.get(name)
        or CLUSTER_HELP.get(name)
        or GUARD_HELP.get(name)
        or RECORDER_HELP.get(name)
        or TLS_HELP.get(name)
        or HANDOVER_HELP.get(name)
        or MOVING_HELP.get(name)
        or TRACING_HELP.get(name)
        or features_help().get(name)
        or f"{name.removesuffix('_total').replace('_', ' ').capitalize()}."
    )
    return (counter if name.endswith("_total") else gauge)(f"realtime_{name}", help, value)


def tenant_metrics(tenants: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """The series of single tenants; as many as the setting names, so that labels are bounded."""
    for name, (kind, help) in TENANT_HELP.items() if tenants else ():
        samples = tuple(Sample(stats.get(name, 0), {"tenant": id}) for id, stats in tenants.items())
        metric = f"realtime_tenant_{name}{'_total' if kind == 'counter' else ''}"
        yield Metric(metric, help, kind, samples)
    if tenants:
        refused = tuple(
            Sample(stats.get(limit, 0), {"tenant": id, "limit": limit})
            for id, stats in tenants.items()
            for limit in sorted(OF_TENANTS)
        )
        help = "What was refused to a tenant over a quota of it."
        yield Metric("realtime_tenant_refusals_total", help, "counter", refused)


def log_metrics() -> Iterator[Metric]:
    """What became of log lines, by their levels."""
    counts = line_counts()
    yield _labelled("log_lines", "Log lines written.", "level", counts.written)
    lost = {"rate": counts.left_out, "write": counts.failed}
    help = (
        "Log lines that were not written: over log_lines_per_second of their place (rate), or nobody took "
        "them (write)."
    )
    samples = tuple(
        Sample(count, {"level": level, "reason": reason})
        for reason, by_level in lost.items()
        for level, count in by_level.items()
    )
    yield Metric("realtime_log_lines_dropped_total", help, "counter", samples)


def process_metrics() -> Iterator[Metric]:
    """Any process: its log lines, and the rest in the names that Prometheus' own clients use."""
    yield from log_metrics()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield counter("process_cpu_seconds_total", "CPU time used.", usage.ru_utime + usage.ru_stime)
    yield gauge("process_resident_memory_bytes", "Memory in RAM.", resident_bytes())
    yield gauge("process_open_fds", "Open file descriptors.", len(os.listdir("/proc/self/fd")))
    yield gauge(
        "process_max_fds", "Most open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    )
    yield gauge("process_start_time_seconds", "Start, in Unix time.", STARTED_AT)


STARTED_AT: Final = time.time()


def resident_bytes() -> int:
    """Memory of this process in RAM."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _named(
    values: Mapping[str, float],
    counters: Mapping[str, tuple[str, str]],
    gauges: Mapping[str, tuple[str, str]],
) -> Iterator[Metric]:
    for key, (name, help) in counters.items():
        if key in values:
            yield counter(f"realtime_{name}", help, values[key])
    for key, (name, help) in gauges.items():
        if key in values:
            yield gauge(f"realtime_{name}", help, values[key])
