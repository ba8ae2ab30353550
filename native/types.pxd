# cython: language_level=3
"""The hub's C structs, shared by marks, roomlog, wheel, unicast, output, lag, fanout, intake and hub.

Who owns what: `HubState` owns every list, the chunk pool and the scratch buffers. A `Connection`
owns its `Output`, its `Input` and its links; it is freed only at the end of an epoll batch
(`hub.reap`), because a dead one may still stand in the batch. A `Log` is owned by its Python
`RoomLog`, which stays alive while the log has members.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from realtime.native.address cimport Address
from realtime.native.histogram cimport Timings
from realtime.native.ratelimit cimport Standing

cdef enum ConnectionState:
    HANDSHAKE = 0   # reading the request head
    OPEN = 1        # WebSocket frames both ways
    CLOSING = 2     # our Close frame is queued or sent; waiting for the peer's
    LEAVING = 3     # everything is said: close the socket as soon as the output has drained
    DEAD = 4        # the socket is closed; the struct is freed at the end of the batch

cdef enum ConnectionFlag:
    BLOCKED = 1          # the kernel's send buffer is full; EPOLLOUT will say when it is not
    PAUSED = 2           # reading rests until the output has drained
    IN_READABLE = 4      # stands in hub.readable
    IN_UNICAST = 8       # stands in hub.unicast
    PINGED = 16          # a heartbeat ping is out and nothing has come back yet
    PENDING = 32         # not authenticated yet: the handshake deadline still runs
    ECHO = 64            # answers every message with itself, without Python
    BINARY = 128         # the subprotocol uses binary frames
    HANGUP = 256         # EPOLLRDHUP seen: read until end of file
    PEER_CLOSED = 512    # the peer's Close frame has arrived: the closing handshake is complete
    FAILED = 1024        # the input is beyond repair: discard it until end of file
    ABORT = 2048         # close with a reset: the peer is not reading what it has
    THROTTLED = 4096     # stands in hub.throttled: published faster than its room can be flushed
    BEHIND = 16384       # stands in hub.behind: its tenant is over its rates, and is read after all others
    LAPSED = 8192        # a link of it has a lapse: the peer has to be told before its rooms go on

cdef enum Arrival:
    AWAITS_PROXY = 1     # a trusted peer, whose PROXY header may or must come first
    AWAITS_HEAD = 2      # a trusted peer, whose request says on whose behalf it asks
    COUNTED = 4          # on_departure will be called for its address
    FORWARDED = 8        # its request said the address: another one on the same socket may say another

cdef enum ProxyProtocol:
    PROXY_OFF = 0
    PROXY_OPTIONAL = 1   # a trusted peer may begin with a PROXY header
    PROXY_REQUIRED = 2   # it must, and nobody else may connect

cdef enum SlowReader:
    DISCONNECT = 0       # who lags too far is closed with 4001
    DROP_OLDEST = 1      # its cursor jumps forward
    LATEST = 2           # it is parked: its cursor stands nowhere until the socket takes data again

cdef enum:
    PRIORITIES = 4       # 0 LOW to 3 CRITICAL
    QUEUES = 5           # of logs: one for those whose tenant is over its rates, then one for each priority

cdef extern from "<stdint.h>" nogil:
    const uint64_t NOWHERE "UINT64_MAX"    # a log position that no log reaches

cdef struct Chunk:
    Chunk* next
    uint8_t* data        # stands right behind the struct, in the same allocation
    uint64_t base        # log position of data[0]
    uint64_t first       # number of its first frame in the log, from 0 on
    uint32_t length
    uint32_t capacity
    uint32_t readers     # lagging members whose cursor stands in this chunk

# 32 bytes, contiguous per log: a flush pass reads nothing else of a member that keeps up.
cdef struct Member:
    Connection* connection
    Chunk* chunk         # pinned chunk of a lagging cursor, else NULL
    uint64_t position    # the next byte of the log to send
    int fd               # -1 once the connection is dead
    uint8_t busy         # its connection cannot take room data now
    uint8_t shared       # its connection is in other rooms too, or recorded
    uint8_t parked       # its position is NOWHERE and pins nothing

cdef struct Mark:
    uint64_t end         # log position behind a publication
    uint64_t offset      # of it in its room

# The publications that the chunks of a log still hold, in order; frames that have no offset have no mark.
cdef struct Marks:
    Mark* ring           # `capacity` slots (a power of two): `count` from `start` on
    uint32_t capacity
    uint32_t start
    uint32_t count
    uint64_t last        # the last offset appended, 0 = none

cdef struct Log:
    Log* next_dirty      # two links: appended to again while its pass runs, a log is in both lists
    Log* next_passing
    Chunk* head
    Chunk* tail
    Member* members
    void* owner          # the Python RoomLog (borrowed)
    uint64_t end         # position after the last byte
    uint64_t pass_end    # where the log ended when the running pass began
    uint64_t messages    # frames since the log began
    uint64_t lag_limit
    uint64_t lag_limit_messages
    uint64_t look_end        # the lags of members are looked at when `end` or
    uint64_t look_messages   # `messages` is beyond these
    Marks* marks         # of a log that drops, else NULL
    int64_t pass_began_ns
    int64_t since_ns     # the batch that brought the first of what the next pass sends
    int64_t pass_since_ns   # and the one that runs
    int64_t rest_until_ns
    uint64_t burst       # bytes of the last pass: sizes the next chunk
    uint32_t count
    uint32_t capacity
    uint32_t pass_index  # the next member of the running pass
    uint32_t laggards
    uint8_t dirty        # in the dirty list of its queue
    uint8_t passing      # in the passing list of its queue
    uint8_t variant      # deflate window bits << 1 | binary
    uint8_t slow_reader  # a SlowReader
    uint8_t priority     # 0 to 3: its turn where a connection is behind
    uint8_t queue        # the one that it stands in, or stood last
    const Standing* standing    # of the tenant, kept by the Python RoomLog; NULL where it has no rates

# The logs of one queue that have something to send.
cdef struct LogQueue:
    Log* dirty_head
    Log* dirty_tail
    Log* passing
    int64_t rest_until_ns   # when the first resting log wants its pass, 0 = none rests

# What a member misses of a room and has not been told: the offsets above `after` up to `last`.
cdef struct Lapse:
    uint64_t after
    uint64_t last

cdef struct Link:
    Log* log
    Lapse* lapse         # NULL for all but a few
    uint32_t index       # of this connection in log.members

cdef struct Output:
    uint8_t* data        # unicast bytes; data[start:start + length] waits
    Log* owner           # a frame of this log is half sent: nothing else may go out before its end
    uint64_t owner_until
    uint32_t start
    uint32_t length
    uint32_t capacity
    uint32_t front       # of these bytes, how many nothing may go before: a half-sent frame, then urgent ones

cdef struct Input:
    uint8_t* raw         # bytes of an incomplete frame or request head, or of a paused reader
    uint32_t raw_length
    uint32_t raw_capacity
    uint8_t* message     # payload of the fragments so far, unmasked
    uint32_t message_length
    uint32_t message_capacity
    uint32_t fragments
    uint32_t utf8        # validator state inside a fragmented text message
    uint8_t opcode       # of the fragmented message, 0 = none
    uint8_t compressed

# The last frames of a connection: `length` bytes of the ring from `start` on, oldest first (recorder.pyx).
cdef struct Recording:
    uint8_t* ring
    uint32_t capacity
    uint32_t limit          # up to which the ring grows
    uint32_t start
    uint32_t length
    uint32_t payload_limit  # so much is kept of each payload
    uint8_t closer          # which way the first Close frame went, 0 = there was none
    uint64_t frames         # noted since it began
    uint64_t evicted        # and of these overwritten

cdef struct Connection:
    int fd
    uint16_t flags
    uint8_t state
    uint8_t deflate_bits    # 0 = no compression
    uint16_t close_code
    uint16_t link_count
    uint16_t link_capacity
    Link* links
    Output* output
    Input* input
    void* state_object      # Python object given by on_handshake (owned)
    void* handle            # Python Connection handle (borrowed; cleared on both sides)
    void* close_reason      # Python bytes or NULL (owned)
    Connection* wheel_next
    Connection* wheel_previous
    uint32_t deadline       # in ticks
    uint32_t last_seen      # in ticks
    uint32_t index          # in hub.table
    uint32_t expires        # the tick at which it is too old, 0 = never
    uint32_t user_key       # whose it is, 0 = nobody's yet; by it it stands in hub.users
    Connection* user_next   # in the same bucket
    uint64_t id             # counts up from 1, never used again in this process
    Standing* standing      # in the Allowance of its tenant (owned), or NULL: it has no rates
    int64_t bucket          # GCRA theoretical arrival time, ns: of its messages; until OPEN: of its accept
    int64_t byte_bucket     # and of their bytes
    int64_t control_bucket  # of pings and pongs
    Recording* recording    # NULL = it is not recorded
    Address address         # the client's; a trusted peer's own until it has said whom it speaks for
    uint8_t arrival         # bits of an Arrival; without the first two, on_arrival has let its address in

cdef struct ConnectionList:
    Connection** items
    uint32_t count
    uint32_t capacity

cdef struct Counters:
    uint64_t accepted, handshakes, refused, handed_over, closed
    uint64_t messages_in, bytes_in, pings_in, pongs_in, frames_in
    uint64_t unicasts, appended, appended_bytes, deliveries, bytes_out
    uint64_t sends, blocked, polls, events, wakes, passes, pauses
    uint64_t slow_consumers, heartbeat_timeouts, handshake_timeouts, rate_limited, protocol_errors
    uint64_t accept_rests, full, aged, denied_arrivals
    uint64_t chunks, queued_bytes, messages_out
    uint64_t dropped, gaps, parked, skipped, held_back, members
    uint64_t adopted, released
    uint64_t recordings, recorder_bytes, recorder_refused

# Sends of passes whose publications came in one batch; their time is looked at when the flush ends.
cdef struct Note:
    int64_t since_ns
    uint64_t sends

cdef struct HubState:
    int epoll_fd
    uint32_t tick           # counts TICK_MS since the start
    int64_t now_ns          # CLOCK_MONOTONIC, read once per batch
    Connection** table
    uint32_t table_size
    uint32_t connections    # table[:connections] are all, in no order
    uint64_t last_id
    Connection* wheel[1024]
    Connection** users      # buckets of the connections that are somebody's, by their user_key
    uint32_t users_size     # a power of two, or 0 before the first one
    uint32_t users_count    # connections in them
    ConnectionList dead
    ConnectionList readable
    ConnectionList unicast
    ConnectionList throttled
    ConnectionList behind
    uint32_t behind_next    # whose turn it is in there
    Connection* current     # whose frames are being read; its unicast output is corked
    uint8_t* cork
    uint32_t cork_length
    uint32_t cork_front     # as `front` of an output
    uint32_t cork_capacity
    uint8_t* scratch        # read buffer
    LogQueue[5] queues
    uint8_t active          # bits of the queues that are not empty
    uint8_t priorities      # bits of the priorities that logs have had
    Chunk* pool             # spare large chunks
    uint32_t pooled
    uint8_t congested       # an append went over its log's backlog: the current reader is throttled
    uint8_t waking          # on_wake was called and on_ready has not run since
    uint64_t unicast_limit
    uint64_t high_water     # reading pauses while more unicast bytes than this wait
    uint32_t max_message
    uint32_t max_fragments
    uint32_t read_chunk
    uint32_t heartbeat_ticks
    uint32_t close_ticks
    uint32_t handshake_ticks
    int64_t message_cost_ns
    int64_t message_burst_ns
    double byte_cost_ns     # 0 = bytes are not limited
    int64_t byte_burst_ns
    int64_t control_cost_ns  # 0 = pings and pongs count as frames alone
    int64_t control_burst_ns
    double max_age_ticks    # 0 = connections live for ever
    uint32_t recorder_bytes     # of the ring of each connection that comes in, 0 = none is recorded
    uint32_t recorder_payload   # kept of each payload then
    uint64_t recorder_sample    # of 2**32: how many of them
    uint64_t recorder_memory    # most bytes of all rings
    double rest_ratio
    int64_t rest_max_ns
    void* owner             # the Python Hub (borrowed)
    void* inflater          # the Python Inflater (owned by the Hub)
    # Return the bytes of the head, 0 for more, -1 when the connection is refused or gone.
    long (*on_head)(void* owner, Connection* connection, uint8_t* data, size_t n) noexcept
    # `wait_ns` is above 0 when the message is over the connection's rate of messages, below when it is over
    # that of bytes.
    void (*on_message)(
        void* owner, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t n, int64_t wait_ns
    ) noexcept
    # It ends with this close code, or HTTP status; NULL where nobody wants to know.
    void (*on_offence)(void* owner, Connection* connection, int code) noexcept
    uint64_t work           # frames handled, and KiB inflated: says when to look at a clock
    Counters counters
    Timings deliveries      # from the batch that brought a publication to the end of its flush
    Timings flushes         # of the sends of one batch's flush passes
    Timings handshakes      # from accept to the answer
    Note[32] notes
    int noted
    int64_t flush_began_ns  # of a flush whose time has still to be looked at; 0 = there is none
