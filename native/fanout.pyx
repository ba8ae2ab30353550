# cython: language_level=3
"""Flush passes: every dirty log is sent to each of its members, in chunks of a bounded number of sends.

A pass works on a snapshot of the dirty logs. What is appended while it runs makes the log dirty
again and waits for the next pass, so a pass always ends. Coalescing clocks itself: the longer a
pass takes, the more each send of the next one carries. Each priority has a queue of its own: the
passes of an urgent log go before those of others, and in between the chunks of one that runs. Behind them all
stand the logs of tenants that are over their rates, which get a few sends at a time: what the others have
meanwhile waits no longer than for those.

A log whose own pass took over 1 ms may rest for `rest_ratio` times as long after it (at most
`rest_max_ns`), which trades a little latency of that room alone for fewer, larger sends.
"""
from libc.stdint cimport int64_t, uint32_t
from realtime.native.histogram cimport timings_add
from realtime.native.output cimport output_send_room
from realtime.native.posix cimport monotonic_ns
from realtime.native.roomlog cimport log_mark_dirty, log_reclaim
from realtime.native.types cimport (
    DEAD,
    IN_READABLE,
    QUEUES,
    THROTTLED,
    Connection,
    HubState,
    Log,
    LogQueue,
)
from realtime.native.unicast cimport list_push

cdef extern from *:
    """
    #ifndef REALTIME_TIMED          /* 0 makes a hub without these histograms, for bench/delivery_cost.py */
    #define REALTIME_TIMED 1
    #endif
    """
    const bint TIMED "REALTIME_TIMED"

cdef enum:
    REST_FROM_NS = 1000000
    BEHIND_SENDS = 8     # at a time, of tenants over their rates: others wait for them as long
    SHARE = 8            # of the budget, one part is for each queue behind busier ones
    NOTES = 32           # of HubState.notes


cdef void _begin_passes(HubState* hub, LogQueue* queue) noexcept nogil:
    """Take the dirty logs of `queue` that do not rest as its next set of passes."""
    cdef Log* log = queue.dirty_head
    cdef Log* following
    cdef Log* last = NULL
    cdef int64_t since_ns
    queue.dirty_head = queue.dirty_tail = NULL
    queue.rest_until_ns = 0
    while log != NULL:
        following = log.next_dirty
        log.dirty = 0
        log.next_dirty = NULL
        if log.rest_until_ns > hub.now_ns:
            since_ns = log.since_ns
            log_mark_dirty(hub, log)
            log.since_ns = since_ns
            if queue.rest_until_ns == 0 or log.rest_until_ns < queue.rest_until_ns:
                queue.rest_until_ns = log.rest_until_ns
        else:
            log.passing = 1
            log.burst = log.end - log.pass_end
            log.pass_end = log.end
            log.pass_index = 0
            log.pass_began_ns = hub.now_ns
            log.pass_since_ns = log.since_ns
            log.next_passing = NULL
            if last == NULL:
                queue.passing = log
            else:
                last.next_passing = log
            last = log
        log = following


cdef void _end_pass(HubState* hub, LogQueue* queue, Log* log) noexcept nogil:
    cdef int64_t rest
    queue.passing = log.next_passing
    log.next_passing = NULL
    log.passing = 0
    hub.counters.passes += 1
    if hub.rest_ratio > 0:
        rest = monotonic_ns() - log.pass_began_ns
        if rest > REST_FROM_NS:
            rest = <int64_t>(rest * hub.rest_ratio)
            log.rest_until_ns = monotonic_ns() + (rest if rest < hub.rest_max_ns else hub.rest_max_ns)
    log_reclaim(hub, log)
    fanout_release(hub)


cdef void fanout_release(HubState* hub) noexcept nogil:
    """Let the connections read on that had published more than their room could be flushed."""
    cdef Connection* connection
    cdef uint32_t i
    for i in range(hub.throttled.count):
        connection = hub.throttled.items[i]
        connection.flags &= ~THROTTLED
        if connection.state != DEAD and not connection.flags & IN_READABLE:
            if list_push(&hub.readable, connection) == 0:
                connection.flags |= IN_READABLE
    hub.throttled.count = 0


cdef uint32_t fanout_flush(HubState* hub, uint32_t budget) noexcept nogil:
    """Make about `budget` sends of the passes, higher priorities first; return the sends made.

    A queue behind busier ones gets a share of its own on top, or its logs would grow without end.

    The clock is read once for all of them, and whoever calls reads it after them anyway and has them settled:
    the time of a single send would cost a good part of one.
    """
    cdef int64_t began_ns = monotonic_ns() if TIMED else 0
    cdef uint32_t share = budget // SHARE if budget > SHARE else 1
    cdef uint32_t sent = 0
    cdef uint32_t left
    cdef int place = QUEUES
    while place > 0:
        place -= 1
        if hub.active & (1 << place):
            left = budget - sent if sent < budget else 0
            if left < share:
                left = share
            if place == 0:
                left = BEHIND_SENDS
            sent += _flush_queue(hub, &hub.queues[place], left)
            if hub.queues[place].passing == NULL and hub.queues[place].dirty_head == NULL:
                hub.active &= ~(1 << place)
    if sent and TIMED:
        hub.flush_began_ns = began_ns
    return sent


cdef void fanout_settle(HubState* hub, int64_t now_ns) noexcept nogil:
    """Count the flush before, where there was one, as ended now, and with it all that it has sent."""
    if hub.flush_began_ns:
        timings_add(&hub.flushes, now_ns - hub.flush_began_ns, 1)
        hub.flush_began_ns = 0
        _settle_notes(hub, now_ns)


cdef void _note(HubState* hub, int64_t since_ns, uint32_t sends) noexcept nogil:
    """Note `sends` of what came at `since_ns`: their time is looked at when the flush ends."""
    if hub.noted and hub.notes[hub.noted - 1].since_ns == since_ns:
        hub.notes[hub.noted - 1].sends += sends
        return
    if hub.noted == NOTES:
        _settle_notes(hub, monotonic_ns())
    hub.notes[hub.noted].since_ns = since_ns
    hub.notes[hub.noted].sends = sends
    hub.noted += 1


cdef void _settle_notes(HubState* hub, int64_t now_ns) noexcept nogil:
    cdef int i
    for i in range(hub.noted):
        timings_add(&hub.deliveries, now_ns - hub.notes[i].since_ns, hub.notes[i].sends)
    hub.noted = 0


cdef uint32_t _flush_queue(HubState* hub, LogQueue* queue, uint32_t budget) noexcept nogil:
    """Make up to `budget` sends of the running passes of `queue`, beginning new ones; return the sends."""
    cdef uint32_t sent = 0
    cdef uint32_t before
    cdef Log* log
    if queue.passing == NULL:
        _begin_passes(hub, queue)
    while queue.passing != NULL and sent < budget:
        log = queue.passing
        before = sent
        while log.pass_index < log.count and sent < budget:
            log.pass_index += 1
            sent += output_send_room(hub, log, log.pass_index - 1)
        if sent != before and TIMED:
            _note(hub, log.pass_since_ns, sent - before)
        if log.pass_index >= log.count:
            _end_pass(hub, queue, log)
    return sent


cdef bint fanout_pending(HubState* hub) noexcept nogil:
    """Whether a pass runs or a dirty log that does not rest waits for one."""
    cdef LogQueue* queue
    cdef int place
    if hub.active == 0:
        return False
    for place in range(QUEUES):
        queue = &hub.queues[place]
        if queue.passing != NULL:
            return True
        if queue.dirty_head != NULL and (queue.rest_until_ns == 0 or queue.rest_until_ns <= hub.now_ns):
            return True
    return False


cdef int64_t fanout_rests_until(HubState* hub) noexcept nogil:
    """Return when the first resting log wants its pass; 0 where none rests."""
    cdef LogQueue* queue
    cdef int64_t until = 0
    cdef int place
    for place in range(QUEUES):
        queue = &hub.queues[place]
        if queue.dirty_head != NULL and queue.rest_until_ns:
            if until == 0 or queue.rest_until_ns < until:
                until = queue.rest_until_ns
    return until
