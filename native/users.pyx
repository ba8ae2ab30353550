# cython: language_level=3
"""Each user's connections: a hash table in C, chained through the connections themselves.

A user has no object here, only a key of 32 bits that whoever lists the connections makes of its name. Two
users may share one, so who is found has to be asked who it is. An entry costs its connection one pointer and
its share of the buckets, 8 to 16 bytes; a dict of objects with lists would cost more than 100.

To count or drop one walks the user's others: they are few, unless the limit of connections per user is set
high. Left to others: what a user is, and how many connections it may have.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from realtime.native.types cimport Connection, HubState

cdef enum:
    BUCKETS_MIN = 64


cdef int users_add(HubState* hub, Connection* connection, uint32_t key) except -1:
    """List `connection` under `key`, which is not 0; it leaves the one it had. MemoryError without memory."""
    if connection.user_key == key:
        return 0
    if hub.users_count >= hub.users_size and _grow(hub) < 0 and hub.users_size == 0:
        raise MemoryError("no memory to list a connection by its user")
    users_drop(hub, connection)
    connection.user_key = key
    connection.user_next = hub.users[key & (hub.users_size - 1)]
    hub.users[key & (hub.users_size - 1)] = connection
    hub.users_count += 1
    return 0


cdef void users_drop(HubState* hub, Connection* connection) noexcept nogil:
    """Take `connection` out; harmless when it is nobody's."""
    cdef Connection** place
    if connection.user_key == 0:
        return
    place = &hub.users[connection.user_key & (hub.users_size - 1)]
    while place[0] != connection:
        place = &place[0].user_next
    place[0] = connection.user_next
    connection.user_next = NULL
    connection.user_key = 0
    hub.users_count -= 1


cdef void users_clear(HubState* hub) noexcept nogil:
    """Free the buckets: nobody is listed any more."""
    free(hub.users)
    hub.users = NULL
    hub.users_size = 0


cdef int _grow(HubState* hub) noexcept nogil:
    """Double the buckets; -1 without memory, and the old ones do."""
    cdef uint32_t size = hub.users_size * 2 if hub.users_size else BUCKETS_MIN
    cdef Connection** grown = <Connection**>calloc(size, sizeof(Connection*))
    cdef Connection* connection
    cdef Connection* following
    cdef uint32_t i
    if grown == NULL:
        return -1
    for i in range(hub.users_size):
        connection = hub.users[i]
        while connection != NULL:
            following = connection.user_next
            connection.user_next = grown[connection.user_key & (size - 1)]
            grown[connection.user_key & (size - 1)] = connection
            connection = following
    free(hub.users)
    hub.users = grown
    hub.users_size = size
    return 0
