"""One member's way through a room's order: each message once and in turn, and a gap for what cannot be had.

No I/O: what was missed and is not here yet stands in `wanted`; its owner fetches that from the history and
hands it to `page`. Pushes that come meanwhile wait behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from realtime.client.inbox import Inbox
from realtime.client.wire import Gap, Message, Page, Position, Resumed


@dataclass(slots=True, eq=False)
class _Fill:
    """Fetch what lies between the position and offset `target`, or to the end of what there is.

    What the history lacks is a gap with `reason`. Where the order goes on in a new epoch, `turn` is where
    that begins, and `end` up to where it is to be filled; the loss between the two cannot be counted.
    """

    target: int | None
    reason: str
    turn: Position | None = None
    end: int = 0


@dataclass(slots=True, eq=False)
class _Seek:
    """Find where in the history the epoch of `end` begins, by halves: after `high` or before it, after `low`.

    A store's offsets go on over epochs and a memory's begin anew, so it is looked for. `first` is the epoch's
    first publication that was found.
    """

    end: Position
    high: int
    low: int | None = None
    first: int | None = None

    @property
    def middle(self) -> int:
        return 0 if self.low is None else (self.low + self.high) // 2


class Ask(NamedTuple):
    """A page of history to ask for: `content` of the request, and what it is for."""

    content: dict[str, int]
    stage: _Fill | _Seek


class Order:
    """What comes next, what was here already, what is missing. `inbox` takes what the reader is to see.

    `position` is the last message that the reader got, or where the room was joined, or None where the
    server has not said.
    """

    def __init__(self, inbox: Inbox) -> None:
        self.position: Position | None = None
        self._inbox = inbox
        # A page and what waited behind it fit into the half of the inbox that is free before each request.
        self._limit = max(1, inbox.limit // 4)
        self._stage: _Fill | _Seek | None = None
        self._later: deque[Message | Gap] = deque()  # live ones that wait for the stage to end
        self._ended = (
            False  # the server has said that the epoch of `position` has ended, and the reader knows
        )
        self._resuming = False
        self._whole = True  # nothing is missing since the room was joined again

    @property
    def wanted(self) -> Ask | None:
        """The page of history that has to come next; None where nothing is missing."""
        stage = self._stage
        if stage is None:
            return None
        if isinstance(stage, _Seek):
            return Ask({"after": stage.middle, "limit": 1}, stage)
        assert self.position is not None
        return Ask({"after": self.position.offset, "limit": self._limit}, stage)

    def joined(self, here: Position | None, recovered: bool, messages: Sequence[Message]) -> None:
        """Take the answer to a join: the room is at `here`, where the answer says so.

        A room that was joined before goes on after `position`: with `messages` where they are all that was
        missed (`recovered`), else with what the history has.
        """
        since = self.position
        if since is None:
            self.position = here
            return
        self._stage = None
        self._later.clear()  # published after `position`, so they come again
        self._resuming, self._whole = True, True
        if here is None and recovered:
            here = _end_of(messages) or since  # the messages themselves say where they lead
        if here is None:
            self._stage = _Fill(None, "unrecoverable")
        elif here.epoch != since.epoch:
            self._change_epoch(here)
        elif here.offset < since.offset:
            # Whatever it is that goes on here: we have seen more of its order than there is.
            self._restart(here)
        else:
            self._take(messages if recovered else ())
            if here.offset > self._offset:
                self._stage = _Fill(here.offset, "unrecoverable")
        if self._stage is None:
            self._end()

    def push(self, push: Message) -> None:
        """Take a live message that has a place in the order."""
        assert push.offset is not None
        assert push.epoch is not None
        here = self.position
        if self._stage is not None:
            self._keep(push)
        elif here is None:
            self._deliver(push)
        elif push.epoch != here.epoch:
            self._change_epoch(Position(max(push.offset - 1, 0), push.epoch))
            self.push(push)
        elif push.offset == here.offset + 1:
            self._ended = False  # it goes on: what said so was on its way when we joined again
            self._deliver(push)
        elif push.offset > here.offset:
            self._ended = False
            self._stage = _Fill(push.offset - 1, "lost")
            self._keep(push)
        # What is not above the position was here already: recovery and the live stream overlap.

    def gap(self, gap: Gap) -> None:
        """Take the server's word that something will not come; only what is new of it is told.

        Where it is an epoch that has ended, the next push says where the room goes on.
        """
        here = self.position
        if self._stage is not None:
            self._keep(gap)
        elif self._ended:
            return  # of an epoch that we have seen nothing of: what is missing there will be looked for
        elif here is None or gap.last is None:
            self._ended = here is not None
            self._tell(gap)
        elif gap.first is not None and gap.first > here.offset + 1:
            self._stage = _Fill(gap.first - 1, "lost")
            self._keep(gap)
        else:
            self._skip_to(gap.last, gap.reason)

    def page(self, ask: Ask, found: Page) -> None:
        """Take the answer to `ask`; one of before the room was joined again is not looked at."""
        stage = self._stage
        if stage is not ask.stage:
            return
        if isinstance(stage, _Seek):
            self._narrow(stage, found)
        elif isinstance(stage, _Fill):
            self._fill(stage, found)

    def give_up(self, ask: Ask) -> None:
        """The history is not to be had: what it should have filled is a gap."""
        stage = self._stage
        if stage is not ask.stage:
            return
        if isinstance(stage, _Seek):
            stage.high, stage.low, stage.first = stage.end.offset, stage.end.offset - 1, None
            self._found(stage)
        elif isinstance(stage, _Fill):
            self._fill(stage, Page([], more=False))

    # -- in one epoch -------------------------------------------------------------------------------------

    @property
    def _offset(self) -> int:
        assert self.position is not None
        return self.position.offset

    def _take(self, messages: Sequence[Message]) -> None:
        """Deliver what follows the position without a hole, as far as the reader has room for it."""
        assert self.position is not None
        free = self._inbox.free
        for message in messages:
            here = self.position
            if message.epoch != here.epoch or message.offset is None or message.offset <= here.offset:
                continue
            if message.offset > here.offset + 1 or free <= 0:
                return
            self._deliver(message)
            free -= 1

    def _fill(self, fill: _Fill, found: Page) -> None:
        before = self._offset
        for message in found.messages:
            self._fill_in(fill, message)
        exhausted = not found.more or self._offset == before
        if exhausted and fill.turn is None and fill.target is not None:
            self._skip_to(fill.target, fill.reason)
        if exhausted or (fill.target is not None and self._offset >= fill.target):
            self._filled(fill)

    def _fill_in(self, fill: _Fill, message: Message) -> None:
        here = self.position
        assert here is not None
        if message.offset is None or message.epoch is None or message.offset <= here.offset:
            return
        if fill.turn is None:
            if message.epoch == here.epoch:
                self._skip_to(message.offset - 1, fill.reason)
                self._deliver(message)
        elif message.epoch != fill.turn.epoch:
            if message.epoch != here.epoch:  # several epochs have gone by
                self._restart(Position(message.offset - 1, message.epoch))
            self._deliver(message)

    def _filled(self, fill: _Fill) -> None:
        if fill.turn is None:
            self._end()
            return
        self._restart(fill.turn)
        if fill.end > fill.turn.offset:
            self._stage = _Fill(fill.end, "unrecoverable")
        else:
            self._end()

    def _end(self) -> None:
        """Nothing is missing any more: go on with what came meanwhile."""
        self._stage = None
        if self._resuming:
            self._resuming = False
            self._inbox.put(Resumed(self._whole))
        waiting, self._later = self._later, deque()
        for item in waiting:
            if isinstance(item, Gap):
                self.gap(item)
            else:
                self.push(item)

    # -- from one epoch to the next -----------------------------------------------------------------------

    def _change_epoch(self, here: Position) -> None:
        """The room goes on at `here`, in a new epoch. What was published in it before is to be found."""
        if here.offset:
            self._stage = _Seek(here, here.offset)
        else:
            self._restart(here)

    def _narrow(self, seek: _Seek, found: Page) -> None:
        first = found.messages[0] if found.messages else None
        if first is not None and first.offset is not None and first.epoch != seek.end.epoch:
            seek.low = max(seek.middle, min(first.offset, seek.high) - 1)
        else:
            seek.high, seek.first = seek.middle, None if first is None else first.offset
        if seek.high == 0 or (seek.low is not None and seek.high - seek.low <= 1):
            self._found(seek)

    def _found(self, seek: _Seek) -> None:
        """Take first what the old epoch still has after the position, then all of the new one."""
        end = seek.end
        turn = end if seek.first is None else Position(min(seek.first - 1, end.offset), end.epoch)
        self._stage = _Fill(turn.offset, "epoch_changed", turn=turn, end=end.offset)
        if seek.low is None or turn.offset <= self._offset:
            self._filled(self._stage)  # the history has nothing of the old one there

    def _restart(self, here: Position) -> None:
        self.position = here
        self._whole = False
        if not self._ended:
            self._tell(Gap(None, None, "epoch_changed"))
        self._ended = False

    # -- what the reader sees -----------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        assert message.offset is not None
        assert message.epoch is not None
        self.position = Position(message.offset, message.epoch)
        self._inbox.put(message)

    def _skip_to(self, offset: int, reason: str) -> None:
        """Move on to `offset`; what lies between is a gap."""
        here = self.position
        assert here is not None
        if offset > here.offset:
            self.position = Position(offset, here.epoch)
            self._tell(Gap(here.offset + 1, offset, reason))

    def _tell(self, gap: Gap) -> None:
        self._whole = False
        self._inbox.put(gap)

    def _keep(self, item: Message | Gap) -> None:
        """Let it wait. Of too many the oldest go: in their turn they are missing, and are fetched again."""
        self._later.append(item)
        if len(self._later) > self._limit:
            self._later.popleft()


def _end_of(messages: Sequence[Message]) -> Position | None:
    """The place of the last message; None where there is none, or it has none."""
    if not messages or messages[-1].offset is None or messages[-1].epoch is None:
        return None
    return Position(messages[-1].offset, messages[-1].epoch)
