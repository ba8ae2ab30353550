"""A lean, high-performance real-time edge server: WebSocket clients in, rooms, ordered fan-out out.

Importing this package or `realtime.client` needs no compiled build; the server does, and so does what an ASGI
application takes from here: `realtime_hub`, `websocket_endpoint`, and `Publisher`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.edge.asgi_hub import realtime_hub, websocket_endpoint
    from realtime.edge.publisher import Publisher
    from realtime.protocol.priority import Priority as NotificationPriority

    __version__: str

__all__ = ["NotificationPriority", "Publisher", "__version__", "realtime_hub", "websocket_endpoint"]

_WHERE = {
    "realtime_hub": ("realtime.edge.asgi_hub", "realtime_hub"),
    "websocket_endpoint": ("realtime.edge.asgi_hub", "websocket_endpoint"),
    "Publisher": ("realtime.edge.publisher", "Publisher"),
    "NotificationPriority": ("realtime.protocol.priority", "Priority"),
}


def __getattr__(name: str) -> Any:
    """Look a name up when it is asked for: whoever needs only the client does not load the server.

    `__version__` too: importlib.metadata takes longer than all the rest of us.
    """
    if name == "__version__":
        return _version()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("realtime")
    except PackageNotFoundError:  # a checkout that was built in place and never installed
        return "0+unknown"
