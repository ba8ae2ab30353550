"""Rate limits by GCRA: one 64-bit time per limited thing, no timer and no refill loop."""

from libc.stdint cimport int64_t


cdef inline int64_t gcra(int64_t* tat, int64_t now_ns, int64_t cost_ns, int64_t burst_ns) noexcept nogil:
    """Take `cost_ns` from a bucket that holds `burst_ns` and refills with time: 0, or the wait in ns.

    `tat` is the theoretical arrival time, when the bucket will be full again; 0 is a full bucket. It moves
    only when the answer is 0. A unit costs 1e9 / rate ns, so `burst` units fit `burst * 1e9 / rate` ns. What
    costs more than the burst never passes, however long one waits. Times and costs lie in 0 to 2**61.
    """
    cdef int64_t start = tat[0] if tat[0] > now_ns else now_ns
    cdef int64_t wait_ns = (start - now_ns) + cost_ns - burst_ns
    if wait_ns > 0:
        return wait_ns
    tat[0] = start + cost_ns
    return 0


cdef class KeyedLimiter:
    cdef readonly double rate_per_s
    cdef readonly double burst
    cdef readonly Py_ssize_t max_keys
    cdef double unit_ns
    cdef int64_t burst_ns
    cdef object clock
    cdef object tats  # theoretical arrival time by key, least recently used first

    cdef make_room(self, int64_t now_ns)


# How somebody who is held to rates stands: what schedules their sockets reads nothing else of them. Times by
# CLOCK_MONOTONIC, in ns.
cdef struct Standing:
    int64_t over_until_ns   # refused something less than a second before: served behind all others till then
    int64_t again_ns        # when what was refused last would have passed
    void* owner             # the Allowance that this is in


cdef class Tariff:
    cdef readonly tuple limits      # names of the limits on messages, bytes and deliveries
    cdef readonly tuple rates
    cdef readonly double burst_s
    cdef object clock
    cdef double[3] unit_ns          # 0 = not limited
    cdef int64_t burst_ns

    cdef int64_t cost_ns(self, int kind, double amount) noexcept


cdef class Allowance:
    cdef readonly Tariff tariff
    cdef public Allowance above     # what is taken here is taken there too; None at the top
    cdef public int holders         # sessions, and allowances below, that draw on it
    cdef Standing standing
    cdef double fanout              # deliveries of what was asked for last, passed or not
    cdef int64_t[3] tats
    cdef double[3] taken

    cpdef tuple take(self, double messages, double octets, double deliveries)
    cdef int64_t longest_wait_ns(self, double octets, int64_t now_ns) noexcept
    cdef int64_t wait_ns(self, int kind, double amount, int64_t now_ns) noexcept
    cdef void spend(self, int kind, double amount, int64_t now_ns) noexcept
