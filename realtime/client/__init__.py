"""The Python client: `connect`, join rooms, publish with acks, iterate; it reconnects and resumes by itself.

    async with connect("ws://127.0.0.1:8000/ws", user="alice") as client:
        room = await client.join("chat:lobby")
        position = await room.publish("chat_message", {"text": "hi"})
        async for message in room:
            print(message)

Needs no compiled build, and imports nothing of the server.
"""

from realtime.client.client import Client, connect
from realtime.client.errors import AckTimeout, CannotSeal, Closed, Disconnected, UnknownError
from realtime.client.link import State
from realtime.client.options import Options
from realtime.client.room import Room
from realtime.client.seal import Key, Keyring, Unreadable
from realtime.client.wire import Gap, MembersChanged, Message, Page, Ping, Position, Resumed, Unread
from realtime.errors import RealtimeError

__all__ = [
    "AckTimeout",
    "CannotSeal",
    "Client",
    "Closed",
    "Disconnected",
    "Gap",
    "Key",
    "Keyring",
    "MembersChanged",
    "Message",
    "Options",
    "Page",
    "Ping",
    "Position",
    "RealtimeError",
    "Resumed",
    "Room",
    "State",
    "UnknownError",
    "Unread",
    "Unreadable",
    "connect",
]
