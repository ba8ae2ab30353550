"""The envelope of what a worker hands over to the one that follows it; `native/parcels.pyx` says how."""

FORMAT_VERSION: int
"""Of what `Hub.export` and `RoomLog.export` return: another one is refused."""
