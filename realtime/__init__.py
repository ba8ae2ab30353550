"""A lean, high-performance real-time edge server: WebSocket clients in, rooms, ordered fan-out out.

Importing this package or `realtime.client` needs no compiled build; the server does.
"""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Look `__version__` up when it is asked for: importlib.metadata takes longer than all the rest of us."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("realtime")
    except PackageNotFoundError:  # a checkout that was built in place and never installed
        return "0+unknown"
