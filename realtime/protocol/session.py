"""The life of one session as a state machine: no socket, no clock, no asyncio.

              a token that is good
    NEW ───────────────────────────────▶ READY ◀──▶ JOINING     the broker takes time
     ▲ │                                  ▲
     │ └──▶ AUTHENTICATING ───────────────┘                     the token takes time to judge
     └────────── │   it cannot be judged now
                 ▼
    each of them ──▶ CLOSING ──▶ CLOSED, or CLOSED at once where the peer is simply gone

It says what may follow what, and in which states messages wait or come too late. A state is only looked at
where something changes or goes wrong; what a session may send now stands in its table of handlers, which
changes with the state and is all that a message meets.
"""

from enum import Enum
from typing import Final


class State(Enum):
    """How far a session has come."""

    NEW = "new"  # nobody's: it may only `connect`
    AUTHENTICATING = "authenticating"  # what it sends waits until it is known who sends it
    READY = "ready"
    JOINING = "joining"  # what it sends waits, so that it finds the room joined
    CLOSING = "closing"  # the server has begun to close: what still comes is not looked at
    CLOSED = "closed"  # the connection is gone

    @property
    def waits(self) -> bool:
        """Whether messages are kept for later."""
        return self in _WAITING

    @property
    def over(self) -> bool:
        """Whether messages come too late."""
        return self in _OVER

    def to(self, state: "State") -> "State":
        """Return `state`, which has to be one that may follow: a step that is none is our own mistake."""
        assert state in _NEXT[self], f"no way from {self.value} to {state.value}"
        return state


_WAITING: Final = frozenset({State.AUTHENTICATING, State.JOINING})
_OVER: Final = frozenset({State.CLOSING, State.CLOSED})
_NEXT: Final = {
    State.NEW: {State.AUTHENTICATING, State.READY, *_OVER},
    State.AUTHENTICATING: {State.NEW, State.READY, *_OVER},
    State.READY: {State.JOINING, *_OVER},
    State.JOINING: {State.READY, *_OVER},
    State.CLOSING: {State.CLOSED},
    State.CLOSED: set[State](),
}
