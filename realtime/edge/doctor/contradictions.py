"""Settings that are each within their bounds, and do not go together: one finding each, and what to change.

What would stop the start is not here: `realtime.loading` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.settings import Settings

Rule = Callable[[Settings, int], "tuple[str, str] | None"]
AREA: Final = "settings"


def contradictions(settings: Settings, workers: int) -> Iterator[Diagnosis]:
    """One finding for each pair that contradicts itself; a single good one where none does."""
    found = list(_of(settings, workers))
    yield from found or [fine(AREA, "none contradicts another")]


def _of(settings: Settings, workers: int) -> Iterator[Diagnosis]:
    if clash := _ports(settings, workers):
        yield fault(AREA, *clash)
    for rule in RULES:
        if said := rule(settings, workers):
            yield doubt(AREA, *said)


def _ports(settings: Settings, workers: int) -> tuple[str, str] | None:
    if not settings.admin_port:
        return None
    last = settings.admin_port + workers - 1
    for name, port in (("port", settings.port), ("tls_port", settings.tls_port)):
        if port and settings.admin_port <= port <= last:
            return (
                f"the workers' administrative ports are {settings.admin_port} to {last}, and {name} {port} "
                "is among them",
                f"choose an admin_port that is {workers} below {name}, or above it",
            )
    return None


def _message_and_history(settings: Settings, workers: int) -> tuple[str, str] | None:
    if not settings.history_messages or settings.history_bytes >= settings.max_message_bytes:
        return None
    return (
        f"history_bytes {settings.history_bytes} is below max_message_bytes {settings.max_message_bytes}: "
        "the largest messages cannot be recovered",
        "raise history_bytes",
    )


def _user_and_connection(settings: Settings, workers: int) -> tuple[str, str] | None:
    for unit in ("messages", "bytes"):
        own = getattr(settings, f"{unit}_per_second")
        user = getattr(settings, f"{unit}_per_second_per_user")
        if user and user < own:
            return (
                f"{unit}_per_second_per_user {user:g} is below {unit}_per_second {own:g}: no connection ever "
                "reaches its own limit",
                f"raise the one of the user to several connections' worth, or lower {unit}_per_second",
            )
    return None


def _closing_and_draining(settings: Settings, workers: int) -> tuple[str, str] | None:
    if settings.close_timeout_s < settings.drain_timeout_s:
        return None
    return (
        f"close_timeout_s {settings.close_timeout_s:g} is not below drain_timeout_s "
        f"{settings.drain_timeout_s:g}: one client that does not answer its close makes every drain last to "
        "its end",
        "lower close_timeout_s, or raise drain_timeout_s",
    )


def _deferring_and_handshake(settings: Settings, workers: int) -> tuple[str, str] | None:
    if settings.handshake_timeout_s > settings.tcp_defer_accept_s:
        return None
    return (
        f"tcp_defer_accept_s {settings.tcp_defer_accept_s} is not below handshake_timeout_s "
        f"{settings.handshake_timeout_s:g}: the kernel hides a slow client for longer than it would be "
        "waited for",
        "lower tcp_defer_accept_s",
    )


def _redis_and_ring(settings: Settings, workers: int) -> tuple[str, str] | None:
    if not settings.redis_url or settings.redis_ping_interval_s * 2 < settings.ring_ttl_s:
        return None
    return (
        f"a silent Redis node is given up after {settings.redis_ping_interval_s * 2:g} s and ring_ttl_s is "
        f"{settings.ring_ttl_s:g}: a worker loses its rooms before it looks for another node",
        "lower redis_ping_interval_s to a third of ring_ttl_s",
    )


def _sqlite_and_redis(settings: Settings, workers: int) -> tuple[str, str] | None:
    if not settings.redis_url or settings.postgres_url:
        return None
    return (
        "with redis_url and without postgres_url durable rooms are kept for recovery_window_s and no longer; "
        "sqlite_path is not used for them",
        "set POSTGRES_URL, or take it as it is",
    )


def _plain_outside(settings: Settings, workers: int) -> tuple[str, str] | None:
    if settings.loopback or settings.tls_port or settings.policy_path:
        return None  # a policy names the proxies that end TLS
    return (
        f"host {settings.host} is reached from outside without TLS, and no policy names a proxy that ends "
        "it: tokens can be read on the way",
        "set tls_port and tls_certificate, or listen on 127.0.0.1 behind a proxy",
    )


def _any_origin(settings: Settings, workers: int) -> tuple[str, str] | None:
    if settings.loopback or settings.allowed_origins or settings.policy_path:
        return None
    return (
        "allowed_origins is empty: a page of anybody's may connect with a visitor's token if it gets at one",
        "name your pages in allowed_origins",
    )


def _query_tokens(settings: Settings, workers: int) -> tuple[str, str] | None:
    if not settings.allow_query_token or settings.loopback:
        return None
    return (
        "allow_query_token is on: tokens end up in the logs of every proxy on the way",
        "send them in Authorization, or as a subprotocol, and turn it off",
    )


def _talkative(settings: Settings, workers: int) -> tuple[str, str] | None:
    if settings.log_level != "debug" or settings.loopback:
        return None
    return ("log_level is debug: that is for looking at one connection", "set log_level to info")


RULES: Final[tuple[Rule, ...]] = (
    _message_and_history,
    _user_and_connection,
    _closing_and_draining,
    _deferring_and_handshake,
    _redis_and_ring,
    _sqlite_and_redis,
    _plain_outside,
    _any_origin,
    _query_tokens,
    _talkative,
)
