"""Records events until it is killed: `python -m tests.contract.audit_writer sqlite PATH` (or `postgres URL`).

It records numbered events in bursts, and prints the number of the last one once all up to it are kept.
"""

import asyncio
import sys
from pathlib import Path

from realtime.backends import audit_postgres, audit_sqlite
from realtime.backends.audit_keeper import AuditKeeper
from realtime.core.audit import Action, Event, Outcome
from realtime.core.clock import SystemClock
from realtime.ids import TenantId

BURST = 50


async def write(kind: str, where: str, name: str) -> None:
    clock = SystemClock()
    if kind == "sqlite":
        store = await audit_sqlite.open_audit(Path(where), synchronous="normal", clock=clock, key=b"")
    else:
        store = await audit_postgres.open_audit(where, synchronous="normal", clock=clock, key=b"")
    keeper = AuditKeeper(store, clock, window_s=0.0, notes_per_second=1e9)
    number = 0
    while True:
        for _ in range(BURST):
            number += 1
            keeper.record(
                Event(
                    tenant=TenantId(f"t{number % 3}"),
                    action=Action.JOIN,
                    outcome=Outcome.DENIED,
                    actor=name,
                    target=f"{number}",
                )
            )
        await keeper.flush()
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(write(*sys.argv[1:4]))
