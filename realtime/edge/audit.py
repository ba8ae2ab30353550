"""The audit log that the settings name: opened for a worker, or for a command that reads it."""

from __future__ import annotations

import os
from pathlib import Path

from realtime.backends import audit_postgres, audit_sqlite
from realtime.backends.audit_keeper import AuditKeeper
from realtime.core.audit_store import AuditReader, AuditStore
from realtime.core.contracts import Clock
from realtime.errors import SettingsError, StartupError
from realtime.settings import Settings, mask


async def open_audit(settings: Settings, clock: Clock) -> AuditKeeper | None:
    """Open the log that the settings name, brought up to date; None: there is none.

    Raises:
        StartupError: it cannot be used; the message says what to do.
    """
    if not settings.audit_path:
        return None
    return AuditKeeper(
        await open_store(settings, clock),
        clock,
        window_s=settings.audit_window_s,
        notes_per_second=settings.audit_entries_per_second,
        admissions=settings.audit_connections,
        retention_days=settings.audit_retention_days,
    )


async def open_store(settings: Settings, clock: Clock) -> AuditStore:
    """Open the log's store for writing: beside running servers too.

    Raises:
        StartupError: it cannot be used.
        SettingsError: the settings name none.
    """
    key = settings.audit_key.encode()
    synchronous = settings.store_synchronous
    if not settings.audit_path:
        raise _none()
    if settings.postgres_url:
        return await audit_postgres.open_audit(
            settings.postgres_url, synchronous=synchronous, clock=clock, key=key
        )
    path = Path(settings.audit_path)
    return await audit_sqlite.open_audit(path, synchronous=synchronous, clock=clock, key=key)


async def open_reader(settings: Settings) -> AuditReader:
    """Open the log for reading, as it is now.

    Raises:
        StartupError: it cannot be read, or there is none yet.
        SettingsError: the settings name none.
    """
    if not settings.audit_path:
        raise _none()
    if settings.postgres_url:
        return await audit_postgres.open_reader(settings.postgres_url)
    return audit_sqlite.SqliteAuditReader(Path(settings.audit_path))


def finding(settings: Settings) -> str:
    """Say where the log is kept, changing nothing.

    Raises:
        StartupError: the server would not start.
    """
    if not settings.audit_path:
        return "none: decisions that matter to security are not on record"
    if settings.postgres_url:
        return f"kept in {mask(settings.postgres_url)}"
    path = Path(settings.audit_path)
    there = path if path.exists() else path.resolve().parent
    if not os.access(there, os.W_OK):
        raise StartupError(
            f"{path} cannot be written: let this user write there, or name another file by --audit-path "
            f"(empty: keep no audit log)"
        )
    return f"{path} {'is there' if path.exists() else 'will be made'}"


def _none() -> SettingsError:
    return SettingsError("there is no audit log: set audit_path (REALTIME_AUDIT_PATH)")
