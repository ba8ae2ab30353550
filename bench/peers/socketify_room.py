"""Peer: socketify (uWebSockets behind cffi) with its own topics. The path is the room; /echo answers."""

# mypy: ignore-errors

import sys

from socketify import App, CompressOptions


def on_upgrade(response, request, context):
    response.upgrade(
        request.get_header("sec-websocket-key"),
        request.get_header("sec-websocket-protocol"),
        request.get_header("sec-websocket-extensions"),
        context,
        request.get_url(),
    )


def on_open(connection):
    room = connection.get_user_data()
    if room != "/echo":
        connection.subscribe(room)


def on_message(connection, payload, opcode):
    room = connection.get_user_data()
    if room == "/echo":
        connection.send(payload, opcode)
    else:
        app.publish(room, payload, opcode)


app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1 << 20,
        "max_backpressure": 64 << 20,
        "idle_timeout": 120,
        "upgrade": on_upgrade,
        "open": on_open,
        "message": on_message,
    },
)
app.listen({"host": "127.0.0.1", "port": int(sys.argv[1])}, lambda config: None)
app.run()
