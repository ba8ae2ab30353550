"""What the API does, each for a caller: it is looked whether they may, done, and put on record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from realtime.backends.auth.minting import make_token
from realtime.core import powers
from realtime.core.audit import OPERATOR, Action, Event, Outcome
from realtime.edge.outsider import Outsider
from realtime.edge.rest.callers import Caller, Callers
from realtime.edge.rest.problems import problem_of
from realtime.edge.rest.survey import Survey
from realtime.edge.status import DRAIN, SHED
from realtime.errors import BadMessage, Forbidden, RealtimeError
from realtime.ids import TenantId, parse_room, parse_user
from realtime.protocol import admin
from realtime.protocol.messages import Ack, Presence
from realtime.settings import Settings

AT_ONCE: Final = 64
"""Rooms of a broadcast that are published to at once."""


class Desk:
    """Does it. Every method raises what its power, its names and the workers' answers raise."""

    def __init__(self, settings: Settings, outsider: Outsider, callers: Callers, survey: Survey) -> None:
        self._settings = settings
        self._outsider = outsider
        self._callers = callers
        self._survey = survey

    # -- rooms ----------------------------------------------------------------------------------------------

    async def publish(self, caller: Caller, asked: admin.Publish) -> Ack:
        """Publish to a room."""
        tenant = self._callers.permit(caller, powers.PUBLISH, asked.tenant, asked.room)
        receipt = await self._outsider.publish(
            asked.room,
            asked.type or self._outsider.only_type(asked.room),
            asked.content,
            tenant=tenant,
            user=asked.user,
            key=asked.key,
        )
        return Ack(offset=receipt.offset, epoch=receipt.epoch, duplicate=receipt.duplicate)

    async def broadcast(self, caller: Caller, asked: admin.Broadcast) -> admin.Broadcasted:
        """Publish the same to many rooms; what fails in one stops none of the others."""
        free = asyncio.Semaphore(AT_ONCE)

        async def one(room: str) -> admin.RoomReceipt:
            terms = asked.type, asked.content, asked.tenant, asked.user, asked.key
            type, content, tenant, user, key = terms
            each = admin.Publish(room=room, type=type, content=content, tenant=tenant, user=user, key=key)
            async with free:
                try:
                    return admin.RoomReceipt(room=room, receipt=await self.publish(caller, each))
                except RealtimeError as error:
                    self._note_if_refused(caller, "broadcast", error)
                    return admin.RoomReceipt(room=room, error=problem_of(error))

        return admin.Broadcasted(rooms=await asyncio.gather(*map(one, asked.rooms)))

    async def signal(self, caller: Caller, asked: admin.Signal) -> Ack:
        """Tell members who are there now."""
        tenant = self._callers.permit(caller, powers.PUBLISH, asked.tenant, asked.room)
        await self._outsider.signal(asked.room, asked.type, asked.content, tenant=tenant, user=asked.user)
        return Ack()

    async def notify(self, caller: Caller, asked: admin.Notify) -> admin.Notified:
        """Push a notification to a user."""
        tenant = self._callers.permit(caller, powers.NOTIFY, asked.tenant, _of_user(asked.user))
        sent = await self._outsider.notify(
            asked.user,
            asked.title,
            asked.content,
            priority=asked.priority,
            data=asked.data,
            tenant=tenant,
            id=asked.id,
        )
        return admin.Notified(id=sent.id, connections=sent.connections)

    async def rooms(self, caller: Caller, asked: admin.RoomsAsked) -> admin.Rooms:
        """List the rooms that have members."""
        tenant = self._callers.permit(caller, powers.ROOMS, asked.tenant)
        return await self._survey.rooms(tenant, asked.kind, asked.after, asked.limit)

    async def room(self, caller: Caller, asked: admin.RoomAsked) -> admin.RoomInfo:
        """Say how a room is."""
        tenant = self._callers.permit(caller, powers.ROOMS, asked.tenant, asked.room)
        kind = self._outsider.catalog.kind_of(asked.room)
        there = await self._outsider.presence(asked.room, tenant=tenant)
        page = await self._outsider.history(asked.room, tenant=tenant, limit=1)
        return admin.RoomInfo(
            room=asked.room,
            kind=kind.name,
            durable=kind.durable,
            users=there.count,
            offset=page.offset,
            epoch=page.epoch,
        )

    async def presence(self, caller: Caller, asked: admin.RoomAsked) -> Presence:
        """Say who is in a room."""
        tenant = self._callers.permit(caller, powers.PRESENCE, asked.tenant, asked.room)
        there = await self._outsider.presence(asked.room, tenant=tenant)
        self._record(Action.READ, tenant, asked.room, what="presence")
        return Presence(count=there.count, members=there.members)

    async def history(self, caller: Caller, asked: admin.HistoryAsked) -> admin.RoomHistory:
        """Read what was published to a room."""
        tenant = self._callers.permit(caller, powers.HISTORY, asked.tenant, asked.room)
        page = await self._outsider.history(
            asked.room, tenant=tenant, before=asked.before, after=asked.after, limit=asked.limit
        )
        self._record(Action.READ, tenant, asked.room, what="history")
        return admin.RoomHistory(messages=page.messages, more=page.more, offset=page.offset, epoch=page.epoch)

    async def leave(self, caller: Caller, asked: admin.Leave) -> admin.Closed:
        """Put a user out of a room."""
        tenant = self._callers.permit(caller, powers.DISCONNECT, asked.tenant, asked.room)
        self._outsider.catalog.kind_of(asked.room)
        out = await self._survey.put_out(tenant, parse_room(asked.room), parse_user(asked.user))
        self._record(Action.ADMIN, tenant, asked.user, what="leave", room=asked.room, connections=out)
        return admin.Closed(connections=out)

    # -- connections and tokens -----------------------------------------------------------------------------

    async def connections(self, caller: Caller, asked: admin.ConnectionsAsked) -> admin.Connections:
        """List connections."""
        room = "" if asked.user is None else _of_user(asked.user)
        tenant = self._callers.permit(caller, powers.CONNECTIONS, asked.tenant, room)
        user = None if asked.user is None else parse_user(asked.user)
        found = await self._survey.connections(tenant, user, asked.after, asked.limit)
        self._record(Action.ADMIN, tenant, asked.user or "everybody", what="connections")
        return found

    async def disconnect(self, caller: Caller, asked: admin.Disconnect) -> admin.Closed:
        """Close connections."""
        given = (asked.connection_id is not None) + (asked.user is not None) + asked.everybody
        if given != 1:
            raise BadMessage("give either connection_id, or user, or everybody")
        room = "" if asked.user is None else _of_user(asked.user)
        tenant = self._callers.permit(caller, powers.DISCONNECT, asked.tenant, room)
        terms: dict[str, Any] = {"reason": asked.reason, "code": asked.code}
        if asked.user is not None:
            return admin.Closed(connections=await self._outsider.kick(asked.user, tenant=tenant, **terms))
        if asked.connection_id is None:
            return admin.Closed(connections=await self._outsider.kick_tenant(tenant, **terms))
        closed = await self._survey.close(tenant, asked.connection_id, asked.code, asked.reason)
        self._record(Action.KICK, tenant, asked.connection_id, code=asked.code, connections=closed)
        return admin.Closed(connections=closed)

    async def revoke(self, caller: Caller, asked: admin.Revoke) -> admin.Revoked:
        """Refuse tokens."""
        room = "" if asked.user is None else _of_user(asked.user)
        tenant = self._callers.permit(caller, powers.REVOKE, asked.tenant, room)
        until = await self._outsider.revoke(
            tenant=tenant,
            user=asked.user,
            token_id=asked.token_id,
            everybody=asked.everybody,
            issued_before=asked.issued_before,
            keep_s=asked.keep_s,
        )
        return admin.Revoked(until=until)

    async def tokens(self, caller: Caller, asked: admin.TokenAsked) -> admin.TokenIssued:
        """Issue a token, which gives none of these powers."""
        tenant = self._callers.permit(caller, powers.TOKENS, asked.tenant, _of_user(asked.user))
        if asked.room is not None:
            self._callers.permit(caller, powers.TOKENS, asked.tenant, asked.room)
        if not self._settings.jwt_secret:
            raise Forbidden("no tokens are issued here: there is no jwt_secret")
        for role in asked.roles:
            # Whoever may make tokens for users must not make itself an operator by one.
            if self._callers.gives_powers(role):
                raise Forbidden(f"the role {role!r} has powers over others; no token is issued for it")
        now = time.time()
        token = make_token(
            self._settings.jwt_secret,
            user=asked.user,
            ttl_s=asked.ttl_s,
            tenant=tenant,
            roles=asked.roles,
            token_id=asked.token_id or "",
            algorithm=self._settings.jwt_algorithms[0],
            room=asked.room or "",
            can=asked.can,
            more={"aud": self._settings.jwt_audiences[0]} if self._settings.jwt_audiences else None,
            now=now,
        )
        self._record(
            Action.ADMIN, tenant, asked.user, what="token", ttl_s=asked.ttl_s, jti=asked.token_id or ""
        )
        return admin.TokenIssued(token=token, expires_at=int(now) + asked.ttl_s)

    # -- workers --------------------------------------------------------------------------------------------

    async def workers(self, caller: Caller, asked: admin.NoneAsked) -> admin.Workers:
        """Say how all workers are."""
        self._callers.permit_all(caller, powers.WORKERS)
        return await self._survey.status()

    async def drain(self, caller: Caller, asked: admin.Order) -> admin.Ordered:
        """Have a worker close its connections in its own time, and end; its supervisor starts it anew."""
        return await self._order(caller, asked, DRAIN)

    async def shed(self, caller: Caller, asked: admin.Order) -> admin.Ordered:
        """Have a worker close as many connections as it has too many."""
        return await self._order(caller, asked, SHED)

    async def _order(self, caller: Caller, asked: admin.Order, order: str) -> admin.Ordered:
        self._callers.permit_all(caller, powers.OPERATE)
        self._record(Action.ADMIN, caller.tenant, asked.worker, what=order)
        await self._outsider.recorded()  # the worker may be the only one that can write it down
        await self._survey.order(asked.worker, order)
        return admin.Ordered(worker=asked.worker)

    # -- many at once ---------------------------------------------------------------------------------------

    async def batch(self, caller: Caller, asked: admin.Batch) -> admin.Results:
        """Do commands in their order."""
        return admin.Results(results=[await self._command(caller, each) for each in asked.commands])

    async def _command(self, caller: Caller, command: admin.Command) -> admin.Result:
        given = {name: value for name, value in msgspec.structs.asdict(command).items() if value is not None}
        if len(given) != 1:
            wanted = ", ".join(command.__struct_fields__)
            return admin.Result(error=problem_of(BadMessage(f"a command is one of {wanted}")))
        ((name, value),) = given.items()
        try:
            return admin.Result(**{name: await self._commands[name](self, caller, value)})
        except RealtimeError as error:
            self._note_if_refused(caller, name, error)
            return admin.Result(error=problem_of(error))

    _commands: Final[Mapping[str, Callable[[Desk, Caller, Any], Awaitable[Any]]]] = {
        "publish": publish,
        "broadcast": broadcast,
        "signal": signal,
        "notify": notify,
        "presence": presence,
        "history": history,
        "disconnect": disconnect,
        "leave": leave,
        "revoke": revoke,
    }

    def note_viewer(self, caller: Caller) -> None:
        """Put on record that a caller looks at the dashboard."""
        self._record(Action.ADMIN, caller.tenant, "dashboard", what="dashboard")

    def note_refusal(self, caller: Caller, what: str, error: RealtimeError) -> None:
        """Put on record that a caller may not do what it asked for."""
        self._outsider.record(
            Event(
                tenant=caller.tenant,
                action=Action.ADMIN,
                outcome=Outcome.DENIED,
                actor=caller.name,
                target=what,
                detail={"what": what, "reason": error.code},
            )
        )

    def _note_if_refused(self, caller: Caller, what: str, error: RealtimeError) -> None:
        if isinstance(error, Forbidden):
            self.note_refusal(caller, what, error)

    def _record(self, action: Action, tenant: TenantId, target: str, **detail: str | int) -> None:
        said = {name: value for name, value in detail.items() if value != ""}
        self._outsider.record(
            Event(
                tenant=tenant,
                action=action,
                outcome=Outcome.ALLOWED,
                actor=OPERATOR,
                target=target,
                detail=said,
            )
        )


def _of_user(user: str) -> str:
    """The room that rules speak of a user by."""
    return f"user:{user}"
