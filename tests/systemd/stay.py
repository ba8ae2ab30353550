"""A client that stays: it publishes to a room and hears itself until SIGTERM, and then says how it went."""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from realtime.client import Client, State, connect
from realtime.edge import notify

LAST_S = 5.0  # for what is on its way at the end


class Stayer:
    """Publishes one message after another's ack; nothing may be missing, twice or out of order."""

    def __init__(self) -> None:
        self.times = 0  # that it was connected
        self.acked: list[int] = []
        self.heard: list[int] = []
        self._more = asyncio.Event()

    def on_state(self, state: State) -> None:
        self.times += state is State.ONLINE

    async def stay(self, client: Client, stop: asyncio.Event) -> None:
        """Talk and listen until `stop` is set, or either fails."""
        room = await client.join("chat:stay")
        tasks = [asyncio.create_task(each) for each in (self._talk(room), self._listen(room), stop.wait())]
        await self._heard(1)
        notify.ready()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[0].cancel()
        try:
            async with asyncio.timeout(LAST_S):
                await self._heard(len(self.acked))
        except TimeoutError:
            pass  # what is missing is told
        for each in tasks:
            if each.done() and not each.cancelled():
                each.result()
            each.cancel()

    async def _talk(self, room) -> None:
        while True:
            self.acked.append((await room.publish("chat_message", {"text": "still here"})).offset)

    async def _listen(self, room) -> None:
        async for message in room:
            if getattr(message, "type", "a gap") in ("chat_message", "a gap"):
                self.heard.append(getattr(message, "offset", -1))
                self._more.set()

    async def _heard(self, count: int) -> None:
        while len(self.heard) < count:
            self._more.clear()
            await self._more.wait()

    def __str__(self) -> str:
        missing = len(set(self.acked) - set(self.heard))
        order = "in order" if self.heard == sorted(set(self.heard)) else "OUT OF ORDER"
        heard = f"{missing} OF THEM NOT HEARD" if missing else "all of them heard"
        what = f"{len(self.acked)} messages acked, {heard}, {order}"
        return f"connected {'once' if self.times == 1 else f'{self.times} times'}: {what}"


async def main(url: str, token: str) -> None:
    stop, stayer = asyncio.Event(), Stayer()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with connect(url, token=token, on_state=stayer.on_state) as client:
        try:
            await stayer.stay(client, stop)
        finally:
            print(stayer, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip()))
