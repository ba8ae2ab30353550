"""The API's operations: the one table that its routes and its OpenAPI document are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from realtime.core import powers
from realtime.edge.rest.callers import Caller
from realtime.edge.rest.desk import Desk
from realtime.protocol import admin
from realtime.protocol.messages import Ack, Presence

PREFIX: Final = "/v1/"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One route: `GET` takes `asked` from the query, `POST` from the body. `act` does it."""

    name: str
    method: Literal["GET", "POST"]
    power: str
    asked: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    act: Callable[[Desk, Caller, Any], Awaitable[msgspec.Struct]]
    group: str

    @property
    def path(self) -> str:
        """Where it is."""
        return PREFIX + self.name


def _get(name: str, power: str, group: str, asked: Any, answer: Any, act: Any) -> Operation:
    return Operation(name=name, method="GET", power=power, group=group, asked=asked, answer=answer, act=act)


def _post(name: str, power: str, group: str, asked: Any, answer: Any, act: Any) -> Operation:
    return Operation(name=name, method="POST", power=power, group=group, asked=asked, answer=answer, act=act)


ROOMS: Final = "rooms"
PEOPLE: Final = "connections and tokens"
WORKERS: Final = "workers"

OPERATIONS: Final = (
    _post("publish", powers.PUBLISH, ROOMS, admin.Publish, Ack, Desk.publish),
    _post("broadcast", powers.PUBLISH, ROOMS, admin.Broadcast, admin.Broadcasted, Desk.broadcast),
    _post("signal", powers.PUBLISH, ROOMS, admin.Signal, Ack, Desk.signal),
    _get("rooms", powers.ROOMS, ROOMS, admin.RoomsAsked, admin.Rooms, Desk.rooms),
    _get("room", powers.ROOMS, ROOMS, admin.RoomAsked, admin.RoomInfo, Desk.room),
    _get("presence", powers.PRESENCE, ROOMS, admin.RoomAsked, Presence, Desk.presence),
    _get("history", powers.HISTORY, ROOMS, admin.HistoryAsked, admin.RoomHistory, Desk.history),
    _post("leave", powers.DISCONNECT, ROOMS, admin.Leave, admin.Closed, Desk.leave),
    _post("notify", powers.NOTIFY, PEOPLE, admin.Notify, admin.Notified, Desk.notify),
    _get(
        "connections",
        powers.CONNECTIONS,
        PEOPLE,
        admin.ConnectionsAsked,
        admin.Connections,
        Desk.connections,
    ),
    _post("disconnect", powers.DISCONNECT, PEOPLE, admin.Disconnect, admin.Closed, Desk.disconnect),
    _post("revoke", powers.REVOKE, PEOPLE, admin.Revoke, admin.Revoked, Desk.revoke),
    _post("tokens", powers.TOKENS, PEOPLE, admin.TokenAsked, admin.TokenIssued, Desk.tokens),
    _post("batch", "", ROOMS, admin.Batch, admin.Results, Desk.batch),
    _get("workers", powers.WORKERS, WORKERS, admin.NoneAsked, admin.Workers, Desk.workers),
    _post("drain", powers.OPERATE, WORKERS, admin.Order, admin.Ordered, Desk.drain),
    _post("shed", powers.OPERATE, WORKERS, admin.Order, admin.Ordered, Desk.shed),
)
"""All of them. A batch needs no power of its own: each of its commands does."""
