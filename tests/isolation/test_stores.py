"""What commands read from the stores for one tenant has nothing of another's, whatever both are called."""

import json

import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import KEY, ask, bearer, receive, token
from tests.edge.test_personal_data import realtime

ROOM = "chat:lobby"


@pytest.fixture
def deployment(serve, tmp_path):
    """A server alone, and the variables by which commands find its stores."""
    paths = {"sqlite_path": str(tmp_path / "rooms.sqlite"), "audit_path": str(tmp_path / "audit.sqlite")}
    variables = {f"REALTIME_{name.upper()}": path for name, path in paths.items()}
    return serve(jwt_secret=KEY, **paths), {**variables, "REALTIME_JWT_SECRET": KEY}


async def enter_and_say(server, tenant: str) -> None:
    """Alice of this tenant says its name, under the same names as everywhere, and is refused a room."""
    headers = bearer(token("alice", tenant=tenant, jti="the-same"))
    async with connect(server.ws_url, additional_headers=headers) as ws:
        await receive(ws)
        assert (await ask(ws, type="join", room=ROOM, id=1))["type"] == "joined"
        said = {"text": f"said-in-{tenant}"}
        assert (await ask(ws, type="chat_message", room=ROOM, id=2, content=said, key="k"))["type"] == "ack"
        refused = await ask(ws, type="join", room=f"user:of-{tenant}", id=3)
        assert refused["content"]["name"] == "forbidden"


@pytest.mark.parametrize(
    "command",
    [
        ["user", "export", "alice"],
        ["audit", "show"],
        ["audit", "export"],
        ["audit", "export", "--format", "csv"],
        ["audit", "verify"],
        ["audit", "head"],
    ],
    ids=" ".join,
)
async def test_a_command_for_one_tenant_shows_nothing_of_another(deployment, command):
    server, variables = deployment
    for tenant in ("acme", "globex"):
        await enter_and_say(server, tenant)
    server.stop()  # and so everything is committed
    done = await realtime(variables, *command, "--tenant", "globex")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "globex" in done.stdout
    assert "acme" not in done.stdout


async def test_an_erased_user_stays_what_it_was_in_another_tenant(deployment):
    server, variables = deployment
    for tenant in ("acme", "globex"):
        await enter_and_say(server, tenant)
    server.stop()
    before = await realtime(variables, "user", "export", "alice", "--tenant", "acme")
    done = await realtime(variables, "user", "erase", "alice", "--tenant", "globex")
    assert done.returncode == 0, done
    after = await realtime(variables, "user", "export", "alice", "--tenant", "acme")
    kept = [json.loads(line) for line in after.stdout.splitlines()]
    # Handing them out is itself on record from then on.
    assert [each for each in map(json.loads, before.stdout.splitlines()) if each not in kept] == []
    assert "said-in-acme" in after.stdout
    gone = await realtime(variables, "user", "export", "alice", "--tenant", "globex")
    assert "said-in-globex" not in gone.stdout
