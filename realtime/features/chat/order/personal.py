"""What the chat keeps of one user: handed out, and erased. A `PersonalData`.

What they sent are publications, which the command `user` hands out and erases itself; triggers take
messages, edits and reactions along. Here is the rest: where they are members, what they reported, read and
uploaded, where others' rows and publications name them, and words that only they said, in the search's list.
What others wrote in their own words stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.database import Database, Statement
from realtime.features.chat.order import holds
from realtime.features.chat.search.forms import prune_some
from realtime.ids import TenantId, UserId

PAGE: Final = 500
TEXTS: Final = frozenset({"text", "title", "topic", "reason", "name"})
"""Keys of contents whose values people wrote: a value there that is a user's name names nobody."""

_OURS = "room IN (SELECT id FROM rooms WHERE tenant = $1)"


class Kept(NamedTuple):
    """One table that names users: in `column`, in rows that `where` says are the tenant's. What is the user's
    alone goes (`goes`), elsewhere a pseudonym stands.
    """

    what: str
    table: str
    column: str
    where: str = _OURS
    goes: bool = True


_TENANT = "tenant = $1"
KEPT: Final = (
    Kept("membership", "chat_members", "user_id"),
    Kept("invite", "chat_invites", "user_id"),
    Kept("invite_given", "chat_invites", "by_user", goes=False),
    Kept("room_created", "chat_rooms", "created_by", goes=False),
    Kept("reaction", "chat_reactions", "user_id"),
    Kept("mention", "chat_mentions", "user_id"),
    Kept("scheduled", "chat_scheduled", "user_id", _TENANT),
    Kept("report", "chat_reports", "reporter"),
    Kept("decision", "chat_reports", "decided_by", goes=False),
    Kept("hidden_message", "chat_hidden", "sender"),
    Kept("hiding", "chat_hidden", "hidden_by", goes=False),
    Kept("kept_version", "chat_held", "sender"),
    Kept("hold_placed", "chat_holds", "by_user", _TENANT, goes=False),
    Kept("read_mark", "chat_reads", "user_id"),
    Kept("presence", "chat_presence", "user_id", _TENANT),
    Kept("usage", "chat_files_usage", "user_id", _TENANT),
    Kept("message", "chat_messages", "sender", goes=False),
)
# The rows go when the files do: whoever collects them looks for these.
FILES: Final = "chat_files"

_PUSHES = {
    "sqlite": (
        'SELECT p.room AS room, p."offset" AS place, p.epoch AS epoch, CAST(p.push AS TEXT) AS push '
        "FROM rooms r JOIN publications p ON p.room = r.id WHERE r.tenant = $1 AND r.name LIKE 'chat:%' "
        "AND substr(p.push, 1, 1) = X'7B' AND instr(p.push, CAST($2 AS BLOB)) > 0 "
        'AND (p.room, p."offset", p.epoch) > ($3, $4, $5) ORDER BY p.room, p."offset", p.epoch LIMIT $6'
    ),
    "postgres": (
        'SELECT p.room AS room, p."offset" AS place, p.epoch AS epoch, '
        "convert_from(p.push, 'UTF8') AS push "
        "FROM rooms r JOIN publications p ON p.room = r.id WHERE r.tenant = $1 AND r.name LIKE 'chat:%' "
        "AND get_byte(p.push, 0) = 123 AND position(convert_to($2, 'UTF8') IN p.push) > 0 "
        'AND (p.room, p."offset", p.epoch) > ($3, $4, $5) ORDER BY p.room, p."offset", p.epoch LIMIT $6'
    ),
}
_SAYING = {
    "sqlite": (
        'UPDATE publications SET push = CAST($1 AS BLOB) WHERE room = $2 AND "offset" = $3 AND epoch = $4'
    ),
    "postgres": (
        "UPDATE publications SET push = convert_to($1, 'UTF8') "
        'WHERE room = $2 AND "offset" = $3 AND epoch = $4'
    ),
}
_CONTENTS = (
    ("chat_messages", "id", "content"),
    ("chat_hidden", "id", "content"),
    ("chat_held", "n", "content"),
)


class ChatPersonal:
    """See the module."""

    async def exported(
        self, database: Database, tenant: TenantId, user: UserId
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """As `PersonalData.exported`."""
        for kept in await _present(database, (*KEPT, Kept("attachment", FILES, "user_id", _TENANT))):
            if kept.what == "message":
                continue  # they are publications
            columns = await _columns(database, kept.table)
            selected = ", ".join(f'"{name}"' for name in columns)
            after = 0
            while True:
                rows = await database.read(
                    f"SELECT {selected} FROM {kept.table} WHERE {kept.column} = $2 AND {kept.where} "
                    f"ORDER BY {selected} LIMIT $3 OFFSET $4",
                    *(tenant, user, PAGE, after),
                )
                for row in rows:
                    yield f"chat_{kept.what}", dict(zip(columns, row, strict=True))
                after += len(rows)
                if len(rows) < PAGE:
                    break

    async def refusal(self, database: Database, tenant: TenantId, user: UserId) -> str | None:
        """As `PersonalData.refusal`."""
        if not await _columns(database, "chat_holds"):
            return None
        if await holds.forbids_erasure(database, tenant, user):
            return (
                "a legal hold is on this user, or on a chat room that they wrote in: nothing of theirs may "
                "be erased until it ends (realtime chat holds, realtime chat release)"
            )
        return None

    async def erase(
        self, database: Database, tenant: TenantId, user: UserId, pseudonym: str
    ) -> Mapping[str, int]:
        """As `PersonalData.erase`."""
        done: dict[str, int] = {}
        for kept in await _present(database, KEPT):
            done[f"chat_{kept.what}"] = await _forget(database, kept, (tenant, user, pseudonym))
        if await _columns(database, FILES):
            (gone,) = await database.write(
                Statement(
                    f"UPDATE {FILES} SET user_id = $3, name = '', about = '', "
                    "removed_ms = CASE WHEN removed_ms > 0 THEN removed_ms ELSE 1 END "
                    "WHERE tenant = $1 AND user_id = $2 RETURNING id",
                    (tenant, user, pseudonym),
                )
            )
            done["chat_attachment"] = len(gone)
        done["chat_named"] = await _rename_pushes(database, tenant, user, pseudonym)
        for table, key, column in _CONTENTS:
            if await _columns(database, table):
                done["chat_named"] += await _rename_contents(
                    database, (table, key, column), (tenant, user, pseudonym)
                )
        if await _columns(database, "chat_unsaid"):
            while await prune_some(database):
                pass
        return {what: count for what, count in done.items() if count}


async def _present(database: Database, kept: tuple[Kept, ...]) -> list[Kept]:
    """Return those whose tables there are: a store may be older than we are."""
    return [each for each in kept if await _columns(database, each.table)]


async def _columns(database: Database, table: str) -> list[str]:
    if database.dialect == "sqlite":
        sql = "SELECT name AS name FROM pragma_table_info($1) ORDER BY cid LIMIT 100"
    else:
        sql = (
            "SELECT column_name::text AS name FROM information_schema.columns "
            "WHERE table_schema = 'realtime' AND table_name = $1 ORDER BY ordinal_position LIMIT 100"
        )
    return [name for (name,) in await database.read(sql, table)]


async def _forget(database: Database, kept: Kept, who: tuple[TenantId, UserId, str]) -> int:
    tenant, user, pseudonym = who
    whose = f"WHERE {kept.column} = $2 AND {kept.where} RETURNING 1 AS gone"
    if kept.goes:
        statement = Statement(f"DELETE FROM {kept.table} {whose}", (tenant, user))
    else:
        statement = Statement(
            f"UPDATE {kept.table} SET {kept.column} = $3 {whose}", (tenant, user, pseudonym)
        )
    (gone,) = await database.write(statement)
    return len(gone)


async def _rename_pushes(database: Database, tenant: TenantId, user: UserId, pseudonym: str) -> int:
    """Put the pseudonym where publications of others, or of the server, name the user."""
    name = msgspec.json.encode(user).decode()
    renamed, after = 0, (0, 0, "")
    while rows := await database.read(_PUSHES[database.dialect], tenant, name, *after, PAGE):
        statements = []
        for room, place, epoch, push in rows:
            told = _renamed(msgspec.json.decode(push), user, pseudonym)
            said = msgspec.json.encode(told).decode()
            statements.append(Statement(_SAYING[database.dialect], (said, room, place, epoch)))
        await database.write(*statements)
        renamed += len(rows)
        after = rows[-1][:3]
    return renamed


async def _rename_contents(
    database: Database, where: tuple[str, str, str], who: tuple[TenantId, UserId, str]
) -> int:
    table, key, column = where
    tenant, user, pseudonym = who
    name = msgspec.json.encode(user).decode()
    has = "instr(c.{0}, $2) > 0" if database.dialect == "sqlite" else "position($2 IN c.{0}) > 0"
    renamed, after = 0, -1
    while rows := await database.read(
        f"SELECT c.{key} AS key, c.room AS room, c.{column} AS said FROM {table} c JOIN rooms r "
        f"ON r.id = c.room WHERE r.tenant = $1 AND {has.format(column)} AND c.{key} > $3 "
        f"ORDER BY c.{key} LIMIT $4",
        *(tenant, name, after, PAGE),
    ):
        await database.write(
            *(
                Statement(
                    f"UPDATE {table} SET {column} = $1 WHERE {key} = $2 AND room = $3",
                    (
                        msgspec.json.encode(_renamed(msgspec.json.decode(said), user, pseudonym)).decode(),
                        number,
                        room,
                    ),
                )
                for number, room, said in rows
            )
        )
        renamed += len(rows)
        after = rows[-1][0]
    return renamed


def _renamed(value: Any, user: str, pseudonym: str) -> Any:
    """Return JSON with the pseudonym for each value that is the user's name, but in what people wrote."""
    if isinstance(value, str):
        return pseudonym if value == user else value
    if isinstance(value, list):
        return [_renamed(each, user, pseudonym) for each in value]
    if isinstance(value, dict):
        return {
            key: each if key in TEXTS and isinstance(each, str) else _renamed(each, user, pseudonym)
            for key, each in value.items()
        }
    return value
