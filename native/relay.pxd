"""What the relay reads of a session and of a room; `realtime.core` gives both their rules."""
from realtime.native.ratelimit cimport Allowance
from realtime.native.sequence cimport Sequence

cdef class RoomBase

cdef class SessionBase:
    cdef public object connection
    cdef public object identity
    cdef public object tenant
    cdef public object backlog
    cdef public object rooms
    cdef public set limited         # rooms where it may not send all that members may; None: nowhere
    cdef public dict handlers
    cdef public dict live
    cdef public bytes user_json
    cdef public int credit
    cdef public Allowance allowance
    cdef RoomBase last              # the room of its last straight publication
    cdef readonly unsigned short variant
    cdef readonly bint binary

cdef class RoomBase:
    cdef public bytes json
    cdef public frozenset types
    cdef public Sequence sequence
    cdef public object log
    cdef public int arriving
    cdef public Py_ssize_t members
    cdef bytes last_type            # a type that went straight here, and under which handlers
    cdef dict last_handlers
