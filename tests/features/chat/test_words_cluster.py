"""The order of messages where their room is another worker's."""

from tests.edge.workers import deployment, until_ready
from tests.features.chat.talking import hang_up, member  # noqa: F401 - a fixture


async def test_two_hundred_of_one_sender_stay_in_their_order_over_two_workers(serve, redis_node, postgres):
    shared = deployment(redis_node.url, postgres_url=await postgres.new_database())
    servers = [serve(node=node, **shared) for node in ("a", "b")]
    for server in servers:
        await until_ready(server)
    for number, server in enumerate(servers):  # of one of them the room is the other's
        alice = await member(server, f"alice{number}", room="chat:shared")
        asked = [await alice.send("chat_message", {"text": f"m{n}"}) for n in range(200)]
        for id in asked:
            assert (await alice.answer(id))["type"] == "ack"
        heard = []
        while len(heard) < 200:
            push = await alice.push("chat_message")
            heard += [push["content"]["text"]] if push["from"] == alice.user else []
        assert heard == [f"m{n}" for n in range(200)]
