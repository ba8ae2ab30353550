"""`python -m tests.failing serve …`: the server with one more feature, whose handlers fail by mistake.

Tests look at what such a failure lets out: in the answer, in the log, and in what the log has as a traceback.
"""

from __future__ import annotations

import sys

import realtime.features as features
from realtime.cli import main
from realtime.core.core import Core
from realtime.core.feature import Feature, MessageType
from realtime.core.session import Session
from realtime.native.message import Envelope


def fail(core: Core, session: Session, message: Envelope) -> None:
    """Fail, with all that a handler has at hand in its frame."""
    state = session.connection.state
    raise RuntimeError(f"handler of {message.type} for {type(state).__name__}")


async def fail_later(core: Core, session: Session, message: Envelope) -> None:
    """Fail in a task of one's own."""
    fail(core, session, message)


FEATURE = Feature(
    name="failing",
    messages=(MessageType(name="fail", handler=fail), MessageType(name="fail_later", handler=fail_later)),
)


if __name__ == "__main__":
    found = features.discover
    features.discover = lambda: [*found(), FEATURE]
    sys.exit(main())
