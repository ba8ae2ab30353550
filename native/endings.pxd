# cython: language_level=3
"""How connections end."""
from realtime.native.doorway cimport Doorway
from realtime.native.types cimport Connection as CConnection


cdef class Endings(Doorway):
    cdef object on_recorded         # (handle, close code, recording): one that was recorded is gone
    cdef bytes max_age_reason       # of the close frame
    cdef bytes slow_handshake       # what is answered to a request that takes too long
    cdef bytes slow_authentication  # and to a connection that does not authenticate

    cdef name_limits(self, double handshake_timeout_s)
    cdef void deadline(self, CConnection* connection)
    cdef void heartbeat(self, CConnection* connection)
    cdef void reap(self)
    cdef void forget(self, CConnection* connection)
    cdef void tell_departed(self, CConnection* connection)
    cdef void tell_closed(self, CConnection* connection)
    cdef void tell_recorded(self, CConnection* connection)

cdef bint is_spared(const CConnection* connection) noexcept nogil
