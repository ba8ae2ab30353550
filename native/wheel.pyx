# cython: language_level=3
"""Timeouts of all connections in one wheel of 1,024 slots of 100 ms (102 s in all).

A connection has one deadline at a time: handshake, authentication, heartbeat, age or close. Traffic
does not move it; on expiry the hub looks at `last_seen` and sets it again, so a busy connection
costs two list operations per heartbeat interval and nothing per message. A deadline further away
than the wheel reaches stays in its slot for another turn.

Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 6.
"""
from libc.stdint cimport uint32_t
from realtime.native.types cimport Connection, HubState


cdef void _link(HubState* hub, Connection* connection) noexcept nogil:
    cdef Connection** slot = &hub.wheel[connection.deadline % SLOTS]
    connection.wheel_previous = NULL
    connection.wheel_next = slot[0]
    if slot[0] != NULL:
        slot[0].wheel_previous = connection
    slot[0] = connection


cdef void wheel_set(HubState* hub, Connection* connection, uint32_t ticks) noexcept nogil:
    """Replace the deadline of `connection` by one `ticks` (at least 1) from now."""
    wheel_drop(hub, connection)
    connection.deadline = hub.tick + (ticks if ticks > 0 else 1)
    _link(hub, connection)


cdef void wheel_live(HubState* hub, Connection* connection, uint32_t ticks) noexcept nogil:
    """Set the deadline of an open connection: in `ticks` (0 = none), or when it is too old, if sooner."""
    cdef int left
    if connection.expires:
        left = <int>(connection.expires - hub.tick)
        left = left if left > 0 else 1
        if ticks == 0 or <uint32_t>left < ticks:
            ticks = left
    if ticks:
        wheel_set(hub, connection, ticks)
    else:
        wheel_drop(hub, connection)


cdef void wheel_drop(HubState* hub, Connection* connection) noexcept nogil:
    """Take `connection` off the wheel; harmless when it is not on it."""
    cdef Connection** slot = &hub.wheel[connection.deadline % SLOTS]
    if connection.wheel_previous != NULL:
        connection.wheel_previous.wheel_next = connection.wheel_next
    elif slot[0] == connection:
        slot[0] = connection.wheel_next
    if connection.wheel_next != NULL:
        connection.wheel_next.wheel_previous = connection.wheel_previous
    connection.wheel_next = NULL
    connection.wheel_previous = NULL


cdef Connection* wheel_take_slot(HubState* hub) noexcept nogil:
    """Advance by one tick; return what is due as a list linked by `wheel_next`.

    Every connection returned is off the wheel, with stale links: the caller must set `wheel_next`
    and `wheel_previous` to NULL before it sets a new deadline.
    """
    cdef Connection* connection
    cdef Connection* following
    cdef Connection* due = NULL
    hub.tick += 1
    connection = hub.wheel[hub.tick % SLOTS]
    hub.wheel[hub.tick % SLOTS] = NULL
    while connection != NULL:
        following = connection.wheel_next
        # Ticks wrap after 13 years; the signed difference stays right across the wrap.
        if <int>(connection.deadline - hub.tick) > 0:
            _link(hub, connection)
        else:
            connection.wheel_previous = NULL
            connection.wheel_next = due
            due = connection
        connection = following
    return due
