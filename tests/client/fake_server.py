"""A small server that speaks PROTOCOL.md and fails on command: what the clients' fault tests run against.

It lives on the `websockets` library and holds its rooms in plain lists. It checks nothing that the real
server's own tests check; `faults` decide what goes wrong, and `received` tells what came in.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Message = dict[str, Any]
Fault = Callable[["Peer", Message], bool]
"""Looks at one message before the server does; True: the fault has dealt with it, the server does nothing."""


@dataclass(eq=False)
class Peer:
    """One connection."""

    socket: ServerConnection
    user: str
    rooms: set[str] = field(default_factory=set)
    passive: dict[str, int] = field(default_factory=dict)  # by room, since which offset
    gone: bool = False

    @property
    def binary(self) -> bool:
        return self.socket.subprotocol == "realtime.v1.msgpack"

    async def send(self, *messages: Message) -> None:
        """Send `messages` in one frame. A peer that has gone meanwhile gets nothing."""
        try:
            if self.binary:
                await self.socket.send(
                    msgspec.msgpack.encode(list(messages) if len(messages) > 1 else messages[0])
                )
            else:
                await self.socket.send("\n".join(json.dumps(message) for message in messages))
        except ConnectionClosed:
            return

    def cut(self) -> None:
        """End the socket without a close frame."""
        self.gone = True
        self.socket.transport.abort()


@dataclass
class Room:
    """Publications by offset, from 1."""

    epoch: str
    messages: list[Message] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    forgotten: int = 0  # offsets up to this one are no longer in the history


class FakeServer:
    """`async with FakeServer() as server:` listens on a free loopback port."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.peers: list[Peer] = []
        self.received: list[Message] = []
        self.connects = 0
        self.faults: list[Fault] = []
        self.refuse: tuple[HTTPStatus, Headers] | None = None
        self.greeting: Message = {}
        self.epoch = secrets.token_hex(2)
        self.answer_messages = 1 << 30  # most in one answer: a recovery of more is refused, a page is cut
        self.joined_lacks: set[str] = set()  # keys that its `joined` leaves out
        self.tokens: list[str | None] = []
        self.changed = asyncio.Condition()
        self._server: Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    async def __aenter__(self) -> FakeServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            process_request=self._process_request,
            subprotocols=[Subprotocol("realtime.v1.json"), Subprotocol("realtime.v1.msgpack")],
            reuse_address=True,
        )
        self._port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Die at once: no close frames."""
        assert self._server is not None
        self._server.close(close_connections=False)
        for peer in list(self.peers):
            peer.cut()
        await self._server.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after everything that happens here."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(condition)

    async def close_all(self, code: int, reason: str = "") -> None:
        for peer in list(self.peers):
            await peer.socket.close(code, reason)

    def lose_history(self) -> None:
        """As a restart of a server that keeps everything in memory."""
        self.epoch += "x"
        self.rooms.clear()

    async def publish(self, room_name: str, sender: str, type_: str, content: object) -> Message:
        """Order one publication and push it to the members."""
        room = self._room(room_name)
        push = {
            "type": type_,
            "room": room_name,
            "from": sender,
            "offset": len(room.messages) + 1,
            "epoch": room.epoch,
            "content": content,
            "timestamp": _now(),
        }
        room.messages.append(push)
        for peer in list(self.peers):
            if room_name in peer.rooms and room_name not in peer.passive:
                await self.push_to(peer, push)
        return push

    async def tell_unread(self, room_name: str) -> None:
        """Tell the passive members of a room their counts, as a server does once a second."""
        room = self._room(room_name)
        last = len(room.messages)
        for peer in list(self.peers):
            if room_name in peer.passive:
                content = {"count": last - peer.passive[room_name], "offset": last, "epoch": room.epoch}
                await peer.send({"type": "unread", "room": room_name, "content": content})

    async def push_to(self, peer: Peer, push: Message) -> None:
        """Deliver one publication to one member; servers that cheat do it their way."""
        await peer.send(push)

    def _room(self, name: str) -> Room:
        return self.rooms.setdefault(name, Room(self.epoch))

    def _process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers.get("Authorization"))
        if self.refuse is None:
            return None
        status, headers = self.refuse
        response = socket.respond(status, "refused\n")
        response.headers.update(headers)
        return response

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path.split("?")[0]
        peer = Peer(socket, unquote(path.removeprefix("/ws/")) if path != "/ws" else "anonymous")
        self.peers.append(peer)
        self.connects += 1
        greeting = {
            "connection_id": f"fake-{self.connects}",
            "user_id": peer.user,
            "node": "fake",
            "server_time": _now(),
            "limits": {"message_bytes": 65536},
            "reconnect": {"min_ms": 0, "max_ms": 0},
            **self.greeting,
        }
        await peer.send({"type": "connected", "content": greeting})
        await self._tell()
        try:
            async for frame in socket:
                for message in _decode(frame):
                    if peer.gone:
                        break  # what came in the same frame is lost with it
                    self.received.append(message)
                    if not any(fault(peer, message) for fault in list(self.faults)):
                        await self._handle(peer, message)
                await self._tell()
        except ConnectionClosed:
            pass  # cut by a test, or by the client: both are business as usual here
        finally:
            self.peers.remove(peer)
            for room in list(peer.rooms):
                await self._presence(room, left=[peer.user])
            await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _handle(self, peer: Peer, message: Message) -> None:
        room = message.get("room", "")
        content = message.get("content") or {}
        match message["type"]:
            case "join":
                await self._join(peer, message, room, content.get("since"))
            case "passive":
                last = len(self._room(room).messages)
                peer.passive.setdefault(room, last)
                await self._answer(peer, message, "ack", {"offset": last, "epoch": self._room(room).epoch})
            case "leave":
                peer.rooms.discard(room)
                peer.passive.pop(room, None)
                await peer.send({"type": "left", "id": message["id"], "room": room, "content": {}})
                await self._presence(room, left=[peer.user])
            case "presence":
                await self._answer(peer, message, "presence", {"members": self._members(room)})
            case "history":
                await self._history(peer, message, content)
            case "ping":
                await self._answer(peer, message, "pong", {"server_time": _now()})
            case "refresh":
                await self._answer(peer, message, "ack", {})
            case _:
                await self._publish(peer, message, room, content)

    async def _answer(self, peer: Peer, message: Message, type_: str, content: Message) -> None:
        answer = {"type": type_, "content": content}
        if "room" in message:
            answer["room"] = message["room"]
        if "id" in message:
            await peer.send(answer | {"id": message["id"]})

    async def _join(self, peer: Peer, message: Message, name: str, since: Message | None) -> None:
        room = self._room(name)
        missed: list[Message] = []
        recovered = False
        if since and since["epoch"] == room.epoch and room.forgotten <= since["offset"]:
            missed = room.messages[since["offset"] :]
            recovered = since["offset"] <= len(room.messages) and len(missed) <= self.answer_messages
        peer.rooms.add(name)
        peer.passive.pop(name, None)
        joined = {
            "members": self._members(name),
            "offset": len(room.messages),
            "epoch": room.epoch,
            "recovered": recovered,
            "messages": missed if recovered else [],
        }
        kept = {key: value for key, value in joined.items() if key not in self.joined_lacks}
        await self._answer(peer, message, "joined", kept)
        await self._presence(name, joined=[peer.user], but=peer)

    async def _history(self, peer: Peer, message: Message, content: Message) -> None:
        room = self._room(message["room"])
        kept = [one for one in room.messages if one["offset"] > room.forgotten]
        limit = min(content.get("limit", 50), self.answer_messages)
        if "after" in content:
            found = [one for one in kept if one["offset"] > content["after"]]
            page = found[:limit]
        else:
            found = [one for one in kept if one["offset"] < content.get("before", 1 << 53)]
            page = found[-limit:]
        await self._answer(peer, message, "history", {"messages": page, "more": len(found) > len(page)})

    async def _publish(self, peer: Peer, message: Message, name: str, content: Message) -> None:
        room = self._room(name)
        if name not in peer.rooms:
            await self.send_error(peer, message, "not_joined", temporary=False)
            return
        key = message.get("key")
        known = room.keys.get(key) if key else None
        offset = known or (await self.publish(name, peer.user, message["type"], content))["offset"]
        if key:
            room.keys[key] = offset
        ack = {"offset": offset, "epoch": room.epoch} | ({"duplicate": True} if known else {})
        await self._answer(peer, message, "ack", ack)

    async def send_error(self, peer: Peer, message: Message, name: str, **detail: object) -> None:
        content = {"code": 400, "name": name, "message": f"no: {name}", **detail}
        await self._answer(peer, message, "error", content)

    def _members(self, room: str) -> list[str]:
        return sorted({peer.user for peer in self.peers if room in peer.rooms})

    async def _presence(
        self, room: str, *, joined: list[str] | None = None, left: list[str] | None = None, but: object = None
    ) -> None:
        change = {"joined": joined or [], "left": left or []}
        for peer in list(self.peers):
            if room in peer.rooms and peer is not but:
                await peer.send({"type": "presence", "room": room, "content": change})


def _decode(frame: str | bytes) -> list[Message]:
    if isinstance(frame, str):
        return [json.loads(line) for line in frame.splitlines()]
    decoded = msgspec.msgpack.decode(frame)
    return decoded if isinstance(decoded, list) else [decoded]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
