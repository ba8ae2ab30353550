"""Errors as RFC 9457 says them, with the names and numbers that they have on the wire."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from realtime.errors import RealtimeError
from realtime.protocol.admin import Problem

MEDIA_TYPE: Final = "application/problem+json"
TYPE: Final = "urn:realtime:error:"


def problem_of(error: RealtimeError) -> Problem:
    """Return an error of ours as a problem."""
    return _problem(
        error.number,
        error.code,
        error.message,
        temporary=error.retryable,
        retry_after=error.retry_after_s,
        limit=error.limit,
        allowed=error.allowed,
    )


def problem(status: int, name: str, detail: str) -> Problem:
    """Return a problem of HTTP itself, such as `not_found`, which the wire does not have."""
    return _problem(status, name, detail)


def _problem(
    status: int,
    name: str,
    detail: str,
    *,
    temporary: bool = False,
    retry_after: float | None = None,
    limit: str | None = None,
    allowed: float | None = None,
) -> Problem:
    return Problem(
        type=f"{TYPE}{name}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=status,
        name=name,
        message=detail,
        temporary=temporary,
        retry_after=retry_after,
        limit=limit,
        allowed=allowed,
    )
