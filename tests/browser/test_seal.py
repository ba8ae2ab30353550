"""Sealed rooms in a browser: WebCrypto and `cryptography` make the same bytes, and read each other."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from realtime.client import Key, Keyring, Unreadable, connect
from realtime.client.seal import Place
from tests.browser.js import fake, page, run
from tests.client.fake_server import Message, Peer

__all__ = ["fake", "page", "run"]  # fixtures

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "e2e" / "vectors.json").read_text())
PLACE = Place("acme", "chat:Zürich 😀", "Ada Löwe", "chat_message")
SEAL = """
  const { Key, Keyring, Unreadable, MESSAGES_MAX } = await import("/seal.js");
  const shown = (content) =>
    content instanceof Unreadable ? { ...content } : content;
"""
CONTENTS = [
    None,
    True,
    7,
    -1.5,
    "",
    "words",
    "héllo 😀 \u2028 \u0000 \ufeff",
    [],
    {},
    {"a": [1, {"b": None}]},
]


# ---------------------------------------------------------------- the same bytes


async def test_it_opens_all_that_python_and_javascript_have_sealed(page):
    opened = await page.evaluate(
        f"""async ({{ keys: jwks, sealed, passphrase: {{ words, salt, iterations }} }}) => {{
          {SEAL}
          const keys = new Keyring(await Promise.all(jwks.map((jwk) => Key.fromJwk(jwk))));
          const derived = await Key.fromPassphrase("p", words, {{ salt, iterations }});
          return {{
            plain: await Promise.all(
              sealed.map(({{ content, place }}) => keys.open(content, place).then(shown))),
            derived: await derived.toText(),
          }};
        }}""",
        VECTORS,
    )
    assert opened["plain"] == [vector["plain"] for vector in VECTORS["sealed"]]
    assert opened["derived"] == VECTORS["passphrase"]["k"]


async def test_python_opens_what_javascript_seals_and_knows_its_keys(page):
    made = await page.evaluate(
        f"""async ([contents, place]) => {{
          {SEAL}
          const key = await Key.generate("js");
          const keys = new Keyring([key]);
          return {{
            jwk: await key.toJwk(),
            sealed: await Promise.all(contents.map((content) => keys.seal(content, place))),
            used: key.used,
          }};
        }}""",
        [CONTENTS, PLACE._asdict()],
    )
    keys = Keyring([Key.from_jwk(made["jwk"])])
    assert [keys.open(content, PLACE) for content in made["sealed"]] == CONTENTS
    assert made["used"] == len(CONTENTS)
    assert len({content["sealed"]["nonce"] for content in made["sealed"]}) == len(CONTENTS)


async def test_javascript_opens_what_python_seals_in_its_own_place_alone(page):
    key = Key.generate("py")
    keys = Keyring([key])
    moved = [PLACE._replace(**{name: f"{getattr(PLACE, name)}x"}) for name in PLACE._fields]
    opened = await page.evaluate(
        f"""async ([jwk, sealed, place, moved]) => {{
          {SEAL}
          const keys = new Keyring([await Key.fromJwk(jwk)]);
          const all = (asked) =>
            Promise.all(asked.map(([content, where]) => keys.open(content, where).then(shown)));
          return {{
            here: await all(sealed.map((content) => [content, place])),
            moved: await all(moved.map((where) => [sealed[0], where])),
          }};
        }}""",
        [
            key.to_jwk(),
            [keys.seal(content, PLACE) for content in CONTENTS],
            PLACE._asdict(),
            [each._asdict() for each in moved],
        ],
    )
    assert opened["here"] == CONTENTS
    assert [each["why"] for each in opened["moved"]] == ["broken"] * len(moved)


async def test_nothing_that_comes_makes_it_fail(page):
    good = Keyring([Key.from_jwk(VECTORS["keys"][0])]).seal("words", PLACE)
    sealed = good["sealed"]
    strange = [
        *(
            None,
            7,
            "words",
            [],
            {},
            {"sealed": None},
            {"sealed": 7},
            {"sealed": []},
            {**good, "text": "words"},
        ),
        {"sealed": {**sealed, "v": 2}},
        {"sealed": {**sealed, "kid": None}},
        {"sealed": {**sealed, "kid": "other"}},
        *(
            {"sealed": {**sealed, name: value}}
            for name in ("nonce", "ct")
            for value in (None, 7, "", "A", "é", "A=")
        ),
        {"sealed": {**sealed, "ct": "AAAA" + sealed["ct"][4:]}},
        {"sealed": {**sealed, "nonce": "A" * 20}},
    ]
    found = await page.evaluate(
        f"""async ([jwk, contents, place]) => {{
          {SEAL}
          const keys = new Keyring([await Key.fromJwk(jwk)]);
          return Promise.all(contents.map((content) => keys.open(content, place).then(shown)));
        }}""",
        [VECTORS["keys"][0], strange, PLACE._asdict()],
    )
    ours = Keyring([Key.from_jwk(VECTORS["keys"][0])])
    for content, each in zip(strange, found, strict=True):
        expected = ours.open(content, PLACE)
        assert isinstance(expected, Unreadable)
        assert each == {"why": expected.why, "kid": expected.kid, "content": content}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('Key.generate("a b")', "RangeError: key id a b has to match"),
        ('Key.fromText("k", "AAAA")', "RangeError: key k: a key has 32 bytes, this has 3"),
        ('Key.fromText("k", "AAAA=")', "RangeError: this is no base64url"),
        ('Key.fromJwk({ kty: "RSA", kid: "k", k: "A" })', "RangeError: a key as JWK"),
        ('Key.fromPassphrase("k", "words", { salt: "short" })', "RangeError: a salt has at least 8 bytes"),
        (
            'Key.fromPassphrase("k", "words", { salt: "long enough", iterations: 1000 })',
            "RangeError: 1000 iterations: at least 100000",
        ),
        ("new Keyring().seal(1, {})", "RealtimeError: there is no key to seal with"),
        (
            """Key.generate("k").then((key) => {
              key.used = MESSAGES_MAX;
              return new Keyring([key]).seal(1, { tenant: "t", room: "r", sender: "s", type: "t" });
            })""",
            "RealtimeError: key k is used up",
        ),
    ],
)
async def test_what_cannot_be_is_refused(page, code, said):
    failure = await page.evaluate(
        f"""async () => {{
          {SEAL}
          return Promise.resolve({code}).then(() => "no failure", String);
        }}"""
    )
    assert failure.startswith(said)


# ---------------------------------------------------------------- a room of three


JOIN_SEALED = """async ([url, user, jwk]) => {
  const { connect } = await import("/realtime.js");
  const { Key, Keyring, Unreadable } = await import("/seal.js");
  const client = connect(url, { user });
  const keys = new Keyring([await Key.fromJwk(jwk)]);
  const room = await client.join("chat:secret-a", { keys });
  window.heard = [];
  room.on("message", ({ from, content }) => {
    window.heard.push([from, content instanceof Unreadable ? `(${content.why})` : content]);
  });
  Object.assign(window, { client, room, endToEnd: room.endToEnd });
}"""


async def until_heard(page, count: int) -> list:
    await page.wait_for_function("(count) => window.heard.length >= count", arg=count)
    return await page.evaluate("window.heard")


async def test_two_browsers_and_python_talk_and_the_server_keeps_no_word(serve, open_page, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rooms]]\nrooms = ["chat:secret-*"]\nend_to_end = true\n')
    server = serve(policy_path=policy, sqlite_path=tmp_path / "store.db")
    marker, key = uuid.uuid4().hex, Key.generate("shared")
    ada, bo = await open_page(), await open_page()
    for each, user in ((ada, "Ada Löwe"), (bo, "bo")):
        await each.goto(f"{server.url}/")
        await each.evaluate(JOIN_SEALED, [server.ws_url, user, key.to_jwk()])
        assert await each.evaluate("window.endToEnd")
    async with connect(server.ws_url, user="py", codec="msgpack") as client:
        room = await client.join("chat:secret-a", keys=Keyring([key]))
        expected = []
        for number in range(3):
            for author, say in (
                (
                    "Ada Löwe",
                    lambda content: ada.evaluate("(c) => window.room.publish('chat_message', c)", content),
                ),
                ("bo", lambda content: bo.evaluate("(c) => window.room.publish('chat_message', c)", content)),
                ("py", lambda content: room.publish("chat_message", content)),
            ):
                content = {"text": f"{marker} {author} {number} 😀"}
                assert await say(content)
                expected.append([author, content])
        assert await until_heard(ada, 9) == expected
        assert await until_heard(bo, 9) == expected
        seen = []
        async with asyncio.timeout(60):
            async for message in room:
                seen.append([message.sender, message.content])
                if len(seen) == 9:
                    break
        assert seen == expected
        pages = await ada.evaluate("window.room.history({ limit: 9 }).then(({ messages }) => messages)")
        assert [[each["from"], each["content"]] for each in pages] == expected
    server.stop()
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))
    assert b'"sealed"' in kept
    assert marker.encode() not in kept


# ---------------------------------------------------------------- order, and what is refused


RING = """
  const { Key, Keyring, Unreadable } = await import("/seal.js");
  const keys = new Keyring([await Key.fromText("k", "A".repeat(43))]);
"""


async def test_what_is_said_and_heard_keeps_its_order_whatever_its_size(run, fake):
    result = await run(
        RING
        + """const room = await client.join("chat:x", { keys });
           follow(room);
           const texts = [...Array(40).keys()].map((n) => "x".repeat(n % 2 ? 1 : 40_000));
           await Promise.all(texts.map((text, n) => room.publish("chat_message", { n, text })));
           await until(() => seen.length === 40);
           return seen.map(({ n }) => n);"""
    )
    assert result == list(range(40))
    assert all(each["content"].keys() == {"sealed"} for each in fake.rooms["chat:x"].messages)


async def test_gaps_and_messages_and_the_end_come_in_turn(run, fake):
    async def lose(peer: Peer) -> None:
        place = {"type": "chat_message", "room": "chat:x", "from": "bo", "epoch": fake.epoch}
        sealed = Keyring([Key.from_text("k", "A" * 43)]).seal(
            "first", Place("", "chat:x", "bo", "chat_message")
        )
        gap = {"from": 2, "to": 3, "reason": "slow"}
        await peer.send(
            place | {"offset": 1, "content": sealed},
            {"type": "gap", "room": "chat:x", "content": gap},
            place | {"offset": 4, "content": "plain"},
            {"type": "left", "room": "chat:x", "content": {"reason": "forbidden"}},
        )

    tasks: list[asyncio.Task] = []

    def go(peer: Peer, message: Message) -> bool:
        if message["type"] == "go":
            tasks.append(asyncio.ensure_future(lose(peer)))
        return message["type"] == "go"

    fake.faults.append(go)
    result = await run(
        RING
        + """const room = await client.join("chat:x", { keys });
           room.on("message", ({ content }) => seen.push(content?.why ?? content));
           room.on("gap", ({ from, to }) => seen.push([from, to]));
           const closed = new Promise((resolve) => room.on("closed", resolve));
           client._send({ type: "go" });
           const error = await closed;
           seen.push(error.code, error.message, room.joined);
           return seen;"""
    )
    assert result == [
        *("first", [2, 3], "not_sealed"),
        *("forbidden", "let out of chat:x: forbidden", False),
    ]


async def test_without_keys_nothing_is_sent_to_a_sealed_room(run, fake):
    def sealed_room(peer: Peer, message: Message) -> bool:
        if message["type"] != "join":
            return False
        joined = {"members": [], "count": 0, "offset": 0, "epoch": "e", "recovered": False, "messages": []}
        peer_answer = {"type": "joined", "id": message["id"], "room": message["room"]}
        tasks.append(
            asyncio.ensure_future(peer.send(peer_answer | {"content": {**joined, "end_to_end": True}}))
        )
        return True

    tasks: list[asyncio.Task] = []
    fake.faults.append(sealed_room)
    result = await run(
        """const room = await client.join("chat:x");
           const errors = [];
           client.on("error", ({ code }) => errors.push(code));
           room.signal("chat_typing", {});
           return [await failure(room.publish("chat_message", "words")), errors];"""
    )
    assert result == ["cannot_seal", ["cannot_seal"]]
    assert not [each for each in fake.received if each["type"].startswith("chat_")]
