"""The relay: the straight way of a message from its frame to its room, which nearly all traffic takes.

A message of a type that is simply published, to a room that the session is in, ordered in this process, needs
no rule that a few comparisons do not tell. Everything else is `realtime.core`'s, which this calls: what to do
with other messages, with errors and with what has to wait.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from realtime.native.encode cimport Ack, Push, ack_measure, ack_write, encode_ack, encode_pong
from realtime.native.envelope cimport scan, scan_only
from realtime.native.handles cimport Connection, RoomLog
from realtime.native.hubbase cimport HubBase
from realtime.native.message cimport (
    FIELD_CONTENT,
    FIELD_ID,
    FIELD_KEY,
    FIELD_ROOM,
    FIELD_TYPE,
    FIELDS,
    Envelope,
    Span,
    close_scanner,
    envelope_of,
    id_is_good,
    open_scanner,
)
from realtime.native.scanner cimport Scanner
from realtime.native.ratelimit cimport Allowance
from realtime.native.sequence cimport Sequence

from realtime.native.encode import json_string
from realtime.native.packed import scan_msgpack

cdef enum:
    DEPTH_MAX = 64      # of nesting in a message

cdef bytes NULL_CONTENT = b"null"


cdef class SessionBase:
    """What the relay reads of a session. `live` are the rooms of its tenant by name, `rooms` its own.

    `limited` are those of them where it may not send all that their members may, None where there are none.
    `handlers` are by message type; `credit` is how many messages it may send before `pay` is asked,
    `allowance` what its user and tenant may send, None where that is not limited.
    """

    def __init__(self, connection, dict handlers not None):
        self.connection = connection
        self.handlers = handlers
        self.variant = connection.variant
        self.binary = self.variant & 1


cdef class RoomBase:
    """What the relay reads of a room. `types` are what any member may publish.

    `sequence` orders it, None when that happens elsewhere. `log` is the one log that all its members read,
    where there is one and it is uncompressed JSON; else None, and `deliver_to_all(push, offset)` is called.
    """

    def take(self, frozenset types not None):
        """Let any member publish `types` from now on, without another look."""
        self.types = types
        self.last_type = None
        self.last_handlers = None

    def deliver(self, bytes push not None, offset):
        """Give one publication to the members."""
        if self.log is not None and self.arriving == 0:
            self.log.append(push, offset)
        else:
            self.deliver_to_all(push, offset)


cdef class Relay:
    """Takes frames. `core` answers for everything that is not straight; see relay.pyi."""

    cdef object core
    cdef object stamp
    cdef object publish
    cdef object ping
    cdef object on_stranger
    cdef Py_ssize_t messages_per_frame
    cdef Py_ssize_t content_bytes

    def __init__(
        self, core, stamp, publish, ping, on_stranger, Py_ssize_t messages_per_frame, Py_ssize_t content_bytes
    ):
        self.core = core
        self.stamp = stamp
        self.publish = publish
        self.ping = ping
        self.on_stranger = on_stranger
        self.messages_per_frame = messages_per_frame
        self.content_bytes = content_bytes

    cdef bytes time_text(self):
        return (<HubBase>self.stamp).time_text() if isinstance(self.stamp, HubBase) else self.stamp.timestamp

    def receive(self, state, bytes payload not None):
        """Handle one frame: the messages in it, in order. Never raises over what a peer sent."""
        cdef SessionBase session
        cdef object message, handler, outcome
        cdef list messages
        if not isinstance(state, SessionBase):
            self.on_stranger(state, payload)
            return
        session = <SessionBase>state
        if session.allowance is not None and not self.pay_bytes(session, payload):
            return
        if session.binary:
            messages = scan_msgpack(payload, self.messages_per_frame, DEPTH_MAX)
        else:
            messages = self.take(session, payload)
            if messages is None:
                return
        for message in messages:
            try:
                if session.credit > 0:
                    session.credit -= 1
                else:
                    self.core.pay(session)
                if session.allowance is not None:
                    self.charge(session.allowance, 1, 0)
                handler = None
                if type(message) is Envelope:
                    handler = session.handlers.get((<Envelope>message).type)
                if handler is None:
                    self.core.set_aside(session, message)
                    continue
                if handler is self.publish:
                    outcome = self.publish_straight(session, <Envelope>message)
                elif handler is self.ping:
                    outcome = None
                    if (<Envelope>message).id is not None:
                        reply(session, encode_pong((<Envelope>message).id, self.time_text()))
                else:
                    outcome = handler(session, message)
                if outcome is not None:
                    self.core.finish(session, message, outcome)
            except Exception as error:  # whatever it is, it is this message's alone
                if not self.core.fail(session, message, error):
                    return

    cdef bint pay_bytes(self, SessionBase session, bytes payload) except -1:
        """Take a frame's bytes; where they are over a rate, answer all its messages with that, and False."""
        cdef tuple over = session.allowance.take(0, PyBytes_GET_SIZE(payload), 0)
        cdef list messages
        if over is None:
            return True
        if session.binary:
            messages = scan_msgpack(payload, self.messages_per_frame, DEPTH_MAX)
        else:
            messages = scan(payload, self.messages_per_frame, DEPTH_MAX)
        for message in messages:
            if not self.core.fail(session, message, self.core.over(over[0], over[1], over[2])):
                break
        return False

    cdef int charge(self, Allowance allowance, double messages, double deliveries) except -1:
        """Take it, or raise the error that says which rate it is over."""
        cdef tuple over = allowance.take(messages, 0, deliveries)
        if over is not None:
            raise self.core.over(over[0], over[1], over[2])
        return 0

    cdef list take(self, SessionBase session, bytes payload):
        """Handle a frame of one straight message and return None; of any other, return the messages."""
        cdef Scanner s
        cdef Span[<int>FIELDS] fields
        open_scanner(&s, payload, self.messages_per_frame, DEPTH_MAX)
        try:
            if scan_only(&s, fields) == 0:
                return None if self.go_straight(session, &s, fields) else [envelope_of(&s, fields)]
        finally:
            close_scanner(&s)
        return scan(payload, self.messages_per_frame, DEPTH_MAX)

    cdef bint go_straight(self, SessionBase session, Scanner* s, Span* fields) except -1:
        """Publish from the text itself what repeats the session's last straight publication in type and room.

        No object is made of type, room or content: the room remembers what `publish_straight` found to be
        straight, and under which handlers. False, and nothing done, when anything differs.
        """
        cdef Span* type = &fields[<int>FIELD_TYPE]
        cdef Span* content = &fields[<int>FIELD_CONTENT]
        cdef RoomBase room = session.last
        cdef Span* id = &fields[<int>FIELD_ID]
        cdef Push push
        if room is None or room.last_handlers is not session.handlers or session.credit <= 0:
            return False
        if fields[<int>FIELD_KEY].at != NULL or not is_quoted(type, room.last_type):
            return False
        if not is_token(&fields[<int>FIELD_ROOM], room.json) or room not in session.rooms or content.broken:
            return False
        if session.limited is not None and room in session.limited:
            return False
        push.content, push.content_bytes = content.at, content.end - content.at
        if content.at == NULL:
            push.content = <const uint8_t*>PyBytes_AS_STRING(NULL_CONTENT)
            push.content_bytes = PyBytes_GET_SIZE(NULL_CONTENT)
        if push.content_bytes > <size_t>self.content_bytes or (id.at != NULL and not id_is_good(s, id)):
            return False
        # Where that is too much, the long way finds it again and says so.
        if session.allowance is not None and session.allowance.take(1, 0, room.members) is not None:
            return False
        session.credit -= 1
        push.name, push.name_bytes = type.at + 1, type.end - type.at - 2
        publish(session, room, &push, self.time_text())
        if id.at != NULL:
            acknowledge(session, room, id.at, id.end - id.at)
        return True

    cdef object publish_straight(self, SessionBase session, Envelope message):
        """Publish and acknowledge, or leave it to `publish` where that is not all."""
        cdef bytes content = message.content
        cdef object found = session.live.get(message.room)
        cdef RoomBase room
        cdef bytes name, id
        cdef Push push
        if content is None:
            content = NULL_CONTENT
        if PyBytes_GET_SIZE(content) > self.content_bytes:
            return self.publish(session, message)
        if found is None or found not in session.rooms or message.key is not None:
            return self.publish(session, message)
        room = <RoomBase?>found
        if room.sequence is None or message.type not in room.types:
            return self.publish(session, message)
        if session.limited is not None and room in session.limited:
            return self.publish(session, message)
        if session.allowance is not None:
            self.charge(session.allowance, 0, room.members)
        name = json_string(message.type)
        push.name, push.name_bytes = <const uint8_t*>PyBytes_AS_STRING(name) + 1, PyBytes_GET_SIZE(name) - 2
        push.content = <const uint8_t*>PyBytes_AS_STRING(content)
        push.content_bytes = PyBytes_GET_SIZE(content)
        publish(session, room, &push, self.time_text())
        session.last, room.last_type, room.last_handlers = room, message.type.encode(), session.handlers
        if message.id is not None:
            id = message.id
            acknowledge(session, room, <const uint8_t*>PyBytes_AS_STRING(id), PyBytes_GET_SIZE(id))
        return None


cdef inline int reply(SessionBase session, bytes payload) except -1:
    """Send one message, by the shortest way where the connection is the hub's and reads JSON."""
    if session.binary or type(session.connection) is not Connection:
        session.send(payload)
    else:
        (<Connection>session.connection).send(payload)
    return 0


cdef inline int publish(SessionBase session, RoomBase room, Push* push, bytes timestamp) except -1:
    """Order a publication and give it to the members."""
    cdef Sequence sequence = room.sequence
    cdef size_t n
    cdef const uint8_t* text = sequence.order(push, session.user_json, timestamp, &n)
    if room.log is not None and room.arriving == 0:
        if type(room.log) is RoomLog:
            (<RoomLog>room.log).put(text, n, sequence.offset)
        else:
            room.log.append(PyBytes_FromStringAndSize(<const char*>text, n), sequence.offset)
    elif sequence.deliver is not None:
        sequence.deliver(PyBytes_FromStringAndSize(<const char*>text, n), sequence.offset)
    return 0


cdef inline int acknowledge(SessionBase session, RoomBase room, const uint8_t* id, size_t id_bytes) except -1:
    """Send the ack of what was just published to `room`: straight into what is being collected, if it is."""
    cdef Sequence sequence = room.sequence
    cdef Ack ack
    cdef uint8_t* to = NULL
    cdef size_t n
    if not session.binary and type(session.connection) is Connection:
        ack.id, ack.id_bytes, ack.duplicate = id, id_bytes, False
        n = ack_measure(&ack, room.json, sequence.offset, sequence.epoch)
        to = (<Connection>session.connection).reserve(n)
    if to != NULL:
        ack_write(to, &ack, room.json, sequence.epoch)
    else:
        reply(session, encode_ack(
            PyBytes_FromStringAndSize(<const char*>id, id_bytes), room.json, sequence.offset, sequence.epoch
        ))
    return 0


cdef inline bint is_token(const Span* span, bytes token) noexcept:
    """Does the JSON text of `span` equal `token`?"""
    return (
        span.at != NULL
        and span.end - span.at == PyBytes_GET_SIZE(token)
        and memcmp(span.at, PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token)) == 0
    )


cdef inline bint is_quoted(const Span* span, bytes text) noexcept:
    """Is `span` a JSON string of `text`, written without an escape?"""
    return (
        span.at != NULL
        and not span.escaped
        and span.end - span.at == PyBytes_GET_SIZE(text) + 2
        and memcmp(span.at + 1, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)) == 0
    )
