"""Encrypted rooms on real servers: with Vault, through the publisher, and when a key is missing."""

import asyncio
import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from realtime.client import connect
from realtime.edge.publisher import Publisher
from realtime.errors import RealtimeError, Unavailable
from realtime.settings import Settings
from tests.edge.peer import PATIENCE_S, get
from tests.edge.workers import deployment, until_ready
from tests.sealing.fake_vault import FakeVault

POLICY = '[[rooms]]\nrooms = ["*:secret"]\nencrypted = true\n'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def new_key(name: str = "m1") -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}"


async def say(server: Any, text: str, room: str = "playlist:secret") -> None:
    async with connect(server.ws_url, user="alice") as client:
        await (await client.join(room)).publish("chat_message", text)


async def history(server: Any, room: str = "playlist:secret") -> list[str]:
    async with connect(server.ws_url, user="bob") as client:
        page = await (await client.join(room)).history(limit=100)
    return [message.content for message in page.messages]


async def ready(server: Any) -> tuple[int, dict[str, str]]:
    status, _, body = await asyncio.to_thread(get, f"{server.url}/ready")
    return status, json.loads(body)["checks"]


# ---------------------------------------------------------------- Vault


async def test_a_server_keeps_its_keys_in_vault(serve, tmp_path, policy):
    async with FakeVault() as vault:
        server = serve(
            sqlite_path=tmp_path / "rooms.sqlite",
            policy_path=policy,
            vault_url=vault.url,
            vault_token=vault.token,
        )
        await say(server, "one")
        assert vault.asked == ["/v1/transit/encrypt/realtime", "/v1/transit/decrypt/realtime"]
        await vault.stop()
        await say(server, "while Vault is away")
        server.kill()
        server.start()
        waiting = asyncio.create_task(say(server, "after a restart"))  # it joins when Vault is back
        told = "tenant default has no key to seal with: vault key realtime: Vault cannot be asked"
        await asyncio.to_thread(server.wait_for_line, told)
        await say(server, "not encrypted", "playlist:open")
        assert not waiting.done()
        await vault.start()
        async with asyncio.timeout(PATIENCE_S):
            await waiting
        assert await history(server) == ["one", "while Vault is away", "after a restart"]
        assert vault.token not in server.whole_log()
        vault.refuse = (403, f"permission denied for {vault.token}")
        server.restart()
        with pytest.raises(Unavailable, match="Vault does not decrypt: 403"):
            await say(server, "the token was revoked")
        with pytest.raises(RealtimeError) as caught:
            await history(server)
        assert caught.value.code == "unreadable"
        assert vault.token not in server.whole_log()


# ---------------------------------------------------------------- a missing key


async def test_a_missing_master_key_is_loud_and_no_crash_and_others_are_served(serve, tmp_path, policy):
    settings = {"sqlite_path": tmp_path / "rooms.sqlite", "policy_path": policy}
    server = serve(**settings, encryption_keys=new_key("m1"))
    await say(server, "secret")
    await say(server, "open", "playlist:open")
    assert (await ready(server))[1]["keys"] == "ok"
    server.stop()
    server = serve(**settings, encryption_keys=new_key("m2"))
    server.wait_for_line("master key m1 IS MISSING: 1 data keys cannot be opened")
    status, checks = await ready(server)
    assert (status, checks["keys"]) == (503, "master key m1 missing")
    with pytest.raises(Unavailable, match=r"data key [0-9a-f]{16} of tenant default needs master key m1"):
        await say(server, "refused")
    with pytest.raises(RealtimeError, match=r"offset 1 cannot be read: .* needs master key m1") as caught:
        await history(server)
    assert caught.value.code == "unreadable"
    assert await history(server, "playlist:open") == ["open"]
    await say(server, "still open", "playlist:open")


async def test_a_server_does_not_start_with_keys_that_will_not_do(serve, tmp_path, policy):
    path = tmp_path / "keys"
    path.write_text(new_key())
    path.chmod(0o644)
    for settings, said in (
        ({"encryption_key_file": path}, "may be read by others"),
        ({"encryption_keys": "m1:short"}, "key m1 is not 32 bytes"),
        ({"vault_url": "https://vault.example"}, "vault_url needs vault_token"),
        ({}, r"policy: rooms\[0\] \(\*:secret\) is encrypted, and there is no master key"),
    ):
        with pytest.raises(pytest.fail.Exception, match=said):
            serve(sqlite_path=tmp_path / "rooms.sqlite", policy_path=policy, **settings)


async def test_a_policy_that_encrypts_is_refused_by_a_server_without_keys(serve, tmp_path, policy):
    policy.write_text("")
    server = serve(sqlite_path=tmp_path / "rooms.sqlite", policy_path=policy)
    await say(server, "before")
    policy.write_text(POLICY)
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reload refused.*is encrypted, and there is no master key")
    await say(server, "after")


async def test_a_room_is_encrypted_from_a_reload_on(serve, tmp_path, policy):
    policy.write_text("")
    path = tmp_path / "rooms.sqlite"
    server = serve(sqlite_path=path, policy_path=policy, encryption_keys=new_key())
    await say(server, "MARKER-BEFORE")
    policy.write_text(POLICY)
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reloaded .*policy")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await say(server, "MARKER-AFTER")
            except Unavailable:
                continue  # its key is being fetched
            break
    assert await history(server) == ["MARKER-BEFORE", "MARKER-AFTER"]
    server.stop()
    assert b"MARKER-BEFORE" in path.read_bytes()
    assert b"MARKER-AFTER" not in path.read_bytes()


async def test_a_server_that_keeps_nothing_needs_no_keys(serve, policy):
    server = serve(policy_path=policy)
    await say(server, "in memory alone")
    assert await history(server) == ["in memory alone"]
    assert "keys" not in (await ready(server))[1]


# ---------------------------------------------------------------- the publisher


async def test_what_a_publisher_says_in_an_encrypted_room_is_sealed(serve, own_redis_node, policy):
    settings = deployment(own_redis_node.url, policy_path=policy, encryption_keys=new_key())
    server = serve(**settings)
    await until_ready(server)
    given = Settings(
        redis_url=own_redis_node.url, redis_prefix=settings["redis_prefix"], policy_path=str(policy)
    )
    async with Publisher(settings=given) as publisher:
        for room in ("events:secret", "events:open"):
            receipt = await publisher.publish(room, "publish", f"MARKER-{room}")
            assert receipt.offset == 1
    kept = b"".join(own_redis_node.ask("DUMP", key) for key in own_redis_node.ask("KEYS", "*"))
    assert b"MARKER-events:open" in kept
    assert b"MARKER-events:secret" not in kept
