"""Peer: picows (Cython on uvloop), its listener API. The path is the room; /echo answers the sender."""

# mypy: ignore-errors

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

HEAD_BYTES = 14  # what send_reuse_external_bytearray wants in front of the payload
rooms: dict[str, set] = {}


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class Member(WSListener):
    def __init__(self, path):
        super().__init__()
        self.room = rooms.setdefault(path, set())

    def on_ws_connected(self, transport):
        self.room.add(transport)

    def on_ws_disconnected(self, transport):
        self.room.discard(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            # One buffer for all members: the fastest way that picows offers.
            shared = bytearray(HEAD_BYTES)
            shared += frame.get_payload_as_memoryview()
            for member in self.room:
                member.send_reuse_external_bytearray(WSMsgType.TEXT, shared, HEAD_BYTES)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


def listener(request):
    path = request.path.decode() if isinstance(request.path, bytes) else request.path
    return Echo() if path == "/echo" else Member(path)


async def main():
    server = await ws_create_server(listener, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


uvloop.run(main())
