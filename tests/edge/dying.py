"""`python -m tests.edge.dying serve …`: a server that is killed in the middle of a hand-over, where a test
says.

DIES_AS is `old` or `new`, DIES_AT the frame that it is killed at: before it is sent by whoever sends it, or
when whoever gets it has it. `Go+` is just after it was sent.
"""

import os
import signal
import sys

from realtime.cli import main
from realtime.edge import handover_wire
from realtime.edge.handover_wire import Wire
from realtime.edge.supervisor import PLACE_VARIABLE

AS, AT = os.environ.get("DIES_AS", ""), os.environ.get("DIES_AT", "")
IS = "new" if PLACE_VARIABLE in os.environ else "old"


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _patched():
    encoded, decode = handover_wire._encoded, handover_wire.decode

    def encode_or_die(frame, fds):
        if type(frame).__name__ == AT:
            _die()
        return encoded(frame, fds)

    def decode_or_die(body):
        frame = decode(body)
        if type(frame).__name__ == AT:
            _die()
        return frame

    handover_wire._encoded, handover_wire.decode = encode_or_die, decode_or_die
    if AT == "Go+":
        send_now = Wire.send_now

        def send_and_die(self, frame, fds=(), *, until):
            send_now(self, frame, fds, until=until)
            if type(frame).__name__ == "Go":
                _die()

        Wire.send_now = send_and_die


if AS == IS:
    _patched()
if os.environ.get("SPEAKS") == IS:
    handover_wire.FORMAT = 99
    from realtime.edge import handover_giver, handover_taker

    handover_giver.FORMAT = handover_taker.FORMAT = 99

if __name__ == "__main__":
    sys.exit(main())
