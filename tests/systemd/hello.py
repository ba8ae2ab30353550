"""The first client of a host that was just installed: it joins a room, publishes, and hears itself."""

import asyncio
import sys
from pathlib import Path

from realtime.client import connect


async def main(url: str, token: str) -> None:
    """Say hello to a room."""
    async with asyncio.timeout(30), connect(url, token=token) as client:
        room = await client.join("chat:lobby")
        await room.publish("chat_message", {"text": "hello"})
        async for message in room:
            if message.type == "chat_message":
                print(message.sender, "says", message.content["text"])
                return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip()))
