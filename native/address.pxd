# cython: language_level=3
"""Socket addresses as text."""

cdef str peer_address(int fd)
cdef str peer_name(int fd)
