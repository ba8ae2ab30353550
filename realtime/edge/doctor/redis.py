"""Redis, as a worker would find it: reachable, whole, recent enough, keeping what it is given, and near."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from realtime.backends import redis_report
from realtime.backends.cluster import library
from realtime.backends.redis_report import Master, Report
from realtime.core.clock import SystemClock
from realtime.edge.cluster import make_client
from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.errors import StartupError
from realtime.settings import Settings, mask

AREA: Final = "redis"
OLDEST: Final = (7, 0)
# The promise of 50 ms has two trips to Redis in it.
SLOW_S: Final = 0.005
CLOCK_OFF_S: Final = 1.0
CONNECTIONS_PER_WORKER: Final = 2


def redis(settings: Settings, workers: int) -> Iterator[Diagnosis]:
    """Connect as a worker does, look, and judge. Nothing is written; functions are not loaded."""
    if not settings.redis_url:
        yield fine(AREA, "none: one process, alone")
        return
    where = mask(settings.redis_url)
    try:
        report = asyncio.run(_look(settings))
    except StartupError as error:
        yield fault(
            AREA,
            f"{where}: {error.message}",
            "start Redis or correct REDIS_URL: `redis-cli -u … ping` from this machine has to answer",
        )
        return
    yield from judge(report, where, workers)


async def _look(settings: Settings) -> Report:
    client = make_client(settings, SystemClock(), "doctor")
    await client.start()
    try:
        return await redis_report.look(client)
    finally:
        await client.close()


def judge(report: Report, where: str, workers: int) -> Iterator[Diagnosis]:
    """Say what a report means."""
    yield from _slots(report, where)
    yield from _latency(report)
    yield from _functions(report)
    for master in report.masters:
        yield from _master(master, report.clustered, workers)


def _slots(report: Report, where: str) -> Iterator[Diagnosis]:
    if report.slots_missing:
        ranges = ", ".join(f"{a} to {b}" if a != b else str(a) for a, b in report.slots_missing)
        count = sum(last - first + 1 for first, last in report.slots_missing)
        yield fault(
            AREA,
            f"{count} slots have no node ({ranges}): rooms there cannot be used, and with "
            "cluster-require-full-coverage none can",
            "bring the node back, or `redis-cli --cluster fix HOST:PORT`",
        )
    elif report.state != "ok":
        yield fault(
            AREA, f"cluster_state is {report.state}", "`redis-cli --cluster check HOST:PORT` says why"
        )
    else:
        count = len(report.masters)
        what = f"cluster of {count} masters, every slot is somewhere" if report.clustered else "one server"
        yield fine(AREA, f"{where}: {what}")
    if not report.clustered:
        return
    bare = [master.name for master in report.masters if not master.replicas]
    if bare:
        yield doubt(
            AREA,
            f"no replica of {', '.join(bare)}: when that machine is lost, so are its rooms",
            "add one each: `redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave`",
        )
    if len(report.masters) < 3:
        yield doubt(
            AREA, f"{len(report.masters)} masters: no majority outlives one of them", "run three or more"
        )


def _latency(report: Report) -> Iterator[Diagnosis]:
    middle, most = report.latency_s[len(report.latency_s) // 2], report.latency_s[-1]
    text = f"answers within {middle * 1000:.2f} ms (half), at most {most * 1000:.2f} ms"
    if middle > SLOW_S:
        yield doubt(
            "redis latency",
            text,
            "put Redis and the workers into one data centre; look at `redis-cli --latency` and SLOWLOG GET",
        )
    else:
        yield fine("redis latency", text)


def _functions(report: Report) -> Iterator[Diagnosis]:
    area, ours = "redis functions", library.minor_of(library.source())
    if report.functions_error:
        yield fault(
            area, report.functions_error, "allow FUNCTION to this user (ACL), or upgrade Redis to 7.0"
        )
        return
    versions = {master.functions for master in report.masters}
    if versions == {ours}:
        yield fine(area, f"{library.NAME}, minor version {ours}, on every master")
    elif any(each is not None and each > ours for each in versions):
        yield fine(area, f"{library.NAME} is newer there than here ({ours}): it stays")
    elif versions == {-1}:
        yield fine(area, f"{library.NAME} is not loaded yet: the first worker does it")
    else:
        lacking = ", ".join(master.name for master in report.masters if master.functions != ours)
        yield doubt(
            area,
            f"{library.NAME} is older, or missing, at {lacking}",
            "nothing, where workers are just being replaced; else start one of this version, which loads it",
        )


def _master(master: Master, clustered: bool, workers: int) -> Iterator[Diagnosis]:
    version = ".".join(map(str, master.version))
    if master.version[:2] < OLDEST:
        yield fault(
            AREA, f"{master.name} is version {version}", "upgrade to Redis 7.0 or Valkey 7.2, or later"
        )
    if master.policy not in ("", "noeviction"):
        yield fault(
            AREA,
            f"{master.name}: maxmemory-policy is {master.policy}: rooms vanish when memory is short, and "
            "each that does is a new epoch",
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        )
    if master.bytes_max and master.used_bytes > master.bytes_max * 0.8:
        yield doubt(
            AREA,
            f"{master.name} uses {master.used_bytes * 100 // master.bytes_max} % of maxmemory: at 100 % "
            "publications are refused",
            "raise maxmemory, add masters, or lower history_messages and recovery_window_s",
        )
    room = master.clients_max - master.clients
    if master.clients_max and room < workers * CONNECTIONS_PER_WORKER:
        yield doubt(AREA, f"{master.name} takes {room} more clients", "raise maxclients (and its open files)")
    if abs(master.clock_ahead_s) > CLOCK_OFF_S:
        yield doubt(
            "clock",
            f"{master.name} is {abs(master.clock_ahead_s):.1f} s "
            f"{'ahead' if master.clock_ahead_s > 0 else 'behind'}",
            "run chrony on both machines",
        )
