# cython: language_level=3
"""Flush passes over dirty logs."""
from libc.stdint cimport int64_t, uint32_t
from realtime.native.types cimport HubState

cdef uint32_t fanout_flush(HubState* hub, uint32_t budget) noexcept nogil
cdef void fanout_settle(HubState* hub, int64_t now_ns) noexcept nogil
cdef bint fanout_pending(HubState* hub) noexcept nogil
cdef int64_t fanout_rests_until(HubState* hub) noexcept nogil
cdef void fanout_release(HubState* hub) noexcept nogil
