# cython: language_level=3
"""What becomes of a member that lags behind a log that drops."""
from libc.stdint cimport uint64_t
from realtime.native.types cimport Connection, HubState, Link, Log, Member

cdef int lag_skip(HubState* hub, Log* log, Member* member) noexcept nogil
cdef int lag_park(HubState* hub, Log* log, Member* member) noexcept nogil
cdef void lag_resume(Link* link, uint64_t* after, uint64_t* last) noexcept nogil
cdef Link* lag_untold(Connection* connection, Log* log) noexcept nogil
