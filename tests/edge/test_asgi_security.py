"""The policy over connections of an ASGI application: issuers whose keys are fetched, addresses."""

import asyncio

from tests.edge.asgi_peer import Peer, serving
from tests.edge.peer import JSON
from tests.edge.test_asgi_hub import running
from tests.tokens import asked_for, claims, ec_signer, issuer_toml, jwks, key_server


async def test_a_token_that_waits_for_its_key_is_the_users_once_it_is_there(tmp_path):
    signer = ec_signer("k1")
    with key_server() as keys:
        path = tmp_path / "policy.toml"
        url = keys.serve("/jwks", jwks(signer))
        common = {"issuer": "https://i", "audience": ["us"], "tenant": "acme"}
        path.write_text(issuer_toml(**common, algorithms=["ES256"], jwks_url=url))
        keys.held.clear()
        text = signer.token(claims(iss="https://i", aud="us"))
        offers = [JSON, f"bearer.{text}"]
        async with running(policy_path=str(path)) as hub, serving(hub, "alice", offers=offers) as alice:
            alice.say(type="ping", id=1)
            await asked_for(keys, 1)
            keys.held.set()
            assert (await alice.read())["content"]["tenant"] == "acme"
            assert (await alice.read())["type"] == "pong"
            sent = await hub.notification_manager.send_notification(
                user_id="alice", title="Hi", content="there", tenant="acme"
            )
            assert sent.connections == 1  # it is listed as hers now


def peer_at(address, **how):
    peer = Peer(extensions={"websocket.http.response": {}}, **how)
    if address:
        peer.scope["client"] = (address, 5555)
    return peer


async def test_a_denied_address_is_refused_and_closed_when_the_policy_changes(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[network]\ndeny = ["192.0.2.0/24"]\n')
    async with running(policy_path=str(policy)) as hub:
        denied = peer_at("192.0.2.1")
        await hub.serve(denied, "alice")
        assert denied.got[0]["status"] == 403
        nobody = peer_at("")  # behind a Unix socket, say: the rules cannot be held against it
        await hub.serve(nobody, "alice")
        assert nobody.got[0]["status"] == 403
        bob, carol = peer_at("198.51.100.1"), peer_at("203.0.113.1")
        serving_both = [
            asyncio.ensure_future(hub.serve(each, name)) for each, name in ((bob, "bob"), (carol, "c"))
        ]
        for each in (bob, carol):
            assert (await each.read())["type"] == "connected"
        policy.write_text('[network]\ndeny = ["198.51.100.0/24"]\n')
        assert hub._here().worker.reload()
        assert await bob.closed() == (4507, '{"r":"address_denied"}')
        carol.say(type="ping", id=1)
        assert (await carol.read())["type"] == "pong"
        carol.leave(1000)
        await asyncio.gather(*serving_both)
