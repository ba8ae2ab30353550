"""What a room is, without sockets: sessions, rooms, positions, presence, limits, and the contracts around.

Nothing here does I/O, reads a clock of its own or knows a feature or a backend: `Core` is given a broker, a
fan-out, a clock and the features' catalog, and the edge (or a test) drives it.
"""
