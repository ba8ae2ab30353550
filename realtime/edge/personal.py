"""What is kept of one user, wherever it is: to be handed out, or to be erased. For the command `user`."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from realtime.backends import personal_rows
from realtime.backends.audit_rows import with_entries
from realtime.backends.cluster.personal import RedisTails
from realtime.backends.cluster.whereabouts import find_connections
from realtime.backends.personal_rows import Sent
from realtime.core.audit import OPERATOR, Action, Event, Outcome
from realtime.core.audit_chain import naming, rfc3339
from realtime.core.audit_export import json_line
from realtime.core.audit_notes import Note
from realtime.core.audit_store import AuditStore
from realtime.core.clock import SystemClock
from realtime.core.personal import new_pseudonym
from realtime.edge import audit
from realtime.edge.audit_relay import operator
from realtime.edge.cluster import make_client
from realtime.edge.tables import tables
from realtime.errors import Conflict, SettingsError, StartupError
from realtime.features import discover
from realtime.ids import TenantId, UserId
from realtime.settings import Settings


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: how many publications in how many rooms, rooms that began anew, and audit entries.

    `features` says how much was in tables of features. `pseudonym` stands where the user's name stood. Who it
    was is on record nowhere.
    """

    pseudonym: str
    publications: int
    rooms: int
    renewed_rooms: int
    audit_entries: int
    features: Mapping[str, int] = {}


async def exported(settings: Settings, tenant: TenantId, user: UserId) -> AsyncIterator[bytes]:
    """Return all that is kept of a user, a JSON object a line, told apart by `kept`. It is put on record.

    Raises:
        StartupError, Unavailable: some of it cannot be read.
        SettingsError: the settings name no place where anything is kept.
    """
    _check_place(settings)
    async with AsyncExitStack() as closing:
        store = await _audit_store(settings, closing)
        async for sent in _publications(settings, tenant, user):
            yield _line("publication", **_publication(sent))
        async for line in _of_features(settings, tenant, user):
            yield line
        if settings.redis_url:
            async for line in _in_redis(settings, tenant, user):
                yield line
        if store is not None:
            reader = await audit.open_reader(settings)
            closing.push_async_callback(reader.close)
            async for entry in reader.entries(tenant):
                if naming(entry, user):
                    yield _line("audit", entry=msgspec.Raw(json_line(entry).encode()))
            await store.append([_note(_event(Action.EXPORT, tenant, user))])


async def put_on_record(
    settings: Settings, tenant: TenantId, target: str, *, act: str = "", **detail: str | int
) -> None:
    """Put on record that an operator had something handed out, or did `act`, where there is an audit log."""
    async with AsyncExitStack() as closing:
        store = await _audit_store(settings, closing)
        if store is not None:
            action = Action.MANAGE if act else Action.EXPORT
            told = {**({"act": act} if act else {}), **detail}
            await store.append([_note(_event(action, tenant, target, **told))])


async def erase(settings: Settings, tenant: TenantId, user: UserId) -> Erased:
    """Erase a user: tombstones where their publications are, a pseudonym for their name, audit entries
    without what names them. That it was done is on record, and not to whom.

    What a repeat finds is what came since: whoever is to be erased is revoked first.

    Raises:
        StartupError: a server alone has the store; it is to be stopped.
        Conflict: a feature says that it may not be, such as over a legal hold; nothing is done.
        Unavailable: not all of it was done; a repeat does the rest.
    """
    _check_place(settings)
    pseudonym = new_pseudonym()
    await _check_refusals(settings, tenant, user)
    async with AsyncExitStack() as closing:
        store = await _audit_store(settings, closing)
        tails = None
        if settings.redis_url:
            tails = await closing.enter_async_context(RedisTails(settings.redis_url, settings.redis_prefix))
        rooms = await _erase_publications(settings, tenant, user, pseudonym)
        features = await _erase_of_features(settings, tenant, user, pseudonym)
        renewed = set(rooms)
        if tails is not None:
            # After the store: what a room reads again has tombstones in it.
            renewed |= set(await tails.naming(tenant, user))
            await tails.drop(tenant, renewed)
        entries = 0
        if store is not None:
            told = _event(Action.ERASE, tenant, pseudonym, publications=sum(rooms.values()))
            entries = await _erase_entries(store, tenant, user, told)
    return Erased(
        pseudonym=pseudonym,
        publications=sum(rooms.values()),
        rooms=len(rooms),
        renewed_rooms=0 if tails is None else len(renewed),
        audit_entries=entries,
        features=features,
    )


def _has_tables(settings: Settings) -> bool:
    return bool(settings.postgres_url) or _file(settings) is not None


async def _of_features(settings: Settings, tenant: TenantId, user: UserId) -> AsyncIterator[bytes]:
    """What features keep of the user in tables of their own."""
    if not _has_tables(settings):
        return
    async with tables(settings) as database:
        for feature in discover():
            if feature.personal is not None:
                async for kept, said in feature.personal.exported(database, tenant, user):
                    yield _line(kept, **said)


async def _check_refusals(settings: Settings, tenant: TenantId, user: UserId) -> None:
    if not _has_tables(settings):
        return
    async with tables(settings) as database:
        for feature in discover():
            if feature.personal is not None:
                refusal = await feature.personal.refusal(database, tenant, user)
                if refusal is not None:
                    raise Conflict(refusal)


async def _erase_of_features(
    settings: Settings, tenant: TenantId, user: UserId, pseudonym: str
) -> dict[str, int]:
    done: dict[str, int] = {}
    if not _has_tables(settings):
        return done
    async with tables(settings, writes=True, alone=True) as database:
        for feature in discover():
            if feature.personal is not None:
                done |= await feature.personal.erase(database, tenant, user, pseudonym)
        await database.scrub()
    return done


async def _erase_publications(
    settings: Settings, tenant: TenantId, user: UserId, pseudonym: str
) -> dict[Any, int]:
    if settings.postgres_url:
        return await personal_rows.erase_postgres(
            settings.postgres_url, tenant, user, pseudonym, shared=bool(settings.redis_url)
        )
    path = _file(settings)
    if path is None:
        return {}
    return await personal_rows.erase_sqlite(path, tenant, user, pseudonym)


async def _erase_entries(store: AuditStore, tenant: TenantId, user: UserId, told: Event) -> int:
    erased = 0
    while gone := await store.erase(tenant, user, told):
        erased += gone
    if not erased:
        await store.append([_note(with_entries(told, 0))])
    return erased


async def _publications(settings: Settings, tenant: TenantId, user: UserId) -> AsyncIterator[Sent]:
    if settings.postgres_url:
        found = personal_rows.read_postgres(settings.postgres_url, tenant, user)
    else:
        path = _file(settings)
        if path is None:
            return
        found = personal_rows.read_sqlite(path, tenant, user)
    async for sent in found:
        yield sent


async def _in_redis(settings: Settings, tenant: TenantId, user: UserId) -> AsyncIterator[bytes]:
    """What Redis has beside publications: it keeps those of rooms without a store for minutes."""
    async with RedisTails(settings.redis_url, settings.redis_prefix) as tails:
        for room in await tails.naming(tenant, user):
            yield _line("recent_room", room=room, for_seconds=settings.recovery_window_s)
        for before_ms, until_ms in await tails.revocations(tenant, user):
            yield _line("revocation", issued_before=rfc3339(before_ms * 1000), until=rfc3339(until_ms * 1000))
    client = make_client(settings, SystemClock(), "user")
    try:
        await client.start()
        found = await find_connections(client, settings.redis_prefix, tenant, user)
    finally:
        await client.close()
    for worker, count in found.items():
        yield _line("connections", worker=worker, count=count)


def _file(settings: Settings) -> Path | None:
    """The store's file; None where it is not what a server with these settings uses, or not there."""
    path = Path(settings.sqlite_path)
    return path if settings.sqlite_path and not settings.redis_url and path.exists() else None


def _publication(sent: Sent) -> dict[str, object]:
    where = {"room": sent.room, "offset": sent.offset, "epoch": sent.epoch}
    said: dict[str, object] = {**where, "at": rfc3339(sent.at_ms * 1000)}
    if sent.push.startswith(b"{"):
        return {**said, "message": msgspec.Raw(sent.push)}
    return {**said, "sealed": base64.b64encode(sent.push).decode()}


def _line(kept: str, **said: object) -> bytes:
    return msgspec.json.encode({"kept": kept, **said})


async def _audit_store(settings: Settings, closing: AsyncExitStack) -> AuditStore | None:
    if not settings.audit_path:
        return None
    store = await audit.open_store(settings, SystemClock())
    closing.push_async_callback(store.close)
    return store


def _event(action: Action, tenant: TenantId, target: str, **detail: str | int) -> Event:
    return Event(
        tenant=tenant,
        action=action,
        outcome=Outcome.ALLOWED,
        actor=OPERATOR,
        target=target,
        detail={**detail, "by": operator()},
    )


def _note(event: Event) -> Note:
    now_us = int(SystemClock().time() * 1e6)
    return Note(event, 1, now_us, now_us)


def _check_place(settings: Settings) -> None:
    """Refuse to say that nothing is kept where the settings are another deployment's."""
    if not (settings.postgres_url or settings.redis_url or settings.sqlite_path or settings.audit_path):
        raise SettingsError("nothing is kept: set sqlite_path, POSTGRES_URL, REDIS_URL or audit_path")
    paths = [path for path in (settings.sqlite_path, settings.audit_path) if path]
    if not (settings.postgres_url or settings.redis_url or any(Path(path).exists() for path in paths)):
        raise StartupError(f"nothing is kept here: there is no file {' or '.join(paths)}")
