"""Filters, reports, hiding and appeals on a real server, on both stores."""

from tests.edge.peer import ask, get
from tests.features.chat.ordered import POLICY, acts, put, send, until

RULES = """
[[chat.rules]]
name = "masked"
words = ["grault"]
then = "mask"
[[chat.rules]]
name = "refused"
words = ["plugh"]
[[chat.rules]]
name = "flagged"
words = ["xyzzy"]
then = "flag"
[[chat.rules]]
name = "floods"
rooms = ["chat:slow"]
messages = 2
in_s = 3600
except_roles = ["mod"]
[[chat.rules]]
name = "links"
links = 1
link_deny = ["evil.example"]
"""


async def test_rules_mask_refuse_flag_and_count_and_are_read_again(place):
    place.start()
    alice, listener = await place.member("alice"), await place.member("lea")
    assert "id" in await send(alice, "plugh")
    await place.reload(POLICY + RULES)
    assert "id" in await send(alice, "such gra\u200bult!")
    heard = [(await until(listener, "chat_message"))["content"]["text"] for _ in range(2)]
    assert heard == ["plugh", "such *******!"]
    refused = await send(alice, "PLUGH")
    assert (refused["name"], "'refused'" in refused["message"]) == ("forbidden", True)
    assert (await send(alice, "see http://evil.example/x"))["name"] == "forbidden"
    assert "2 links" in (await send(alice, "a.com and b.com"))["message"]
    assert "id" in await send(alice, "see a.com")
    edited = await send(alice, "nothing wrong")
    assert (await put(alice, "chat_edit", id=edited["id"], text="PLUGH"))["name"] == "forbidden"
    assert "name" not in await put(alice, "chat_edit", id=edited["id"], text="grault then")
    assert (await until(listener, "chat_edit"))["content"]["text"] == "****** then"
    flagged = await send(alice, "xyzzy")
    mod = await place.member("mona", "mod")
    while not (found := (await put(mod, "chat_reports"))["reports"]):
        pass
    assert [(each["kind"], each["message"]["id"], each["message"]["text"]) for each in found] == [
        ("filter", flagged["id"], "xyzzy")
    ]
    assert "by" not in found[0]
    await ask(alice, type="join", room="chat:slow", id="slow")
    assert "id" in await send(alice, "one", "chat:slow")
    assert "id" in await send(alice, "two", "chat:slow")
    limited = await send(alice, "three", "chat:slow")
    assert (limited["name"], limited["limit"]) == ("rate_limited", "floods")
    await place.reload(POLICY + RULES + '[[chat.rules]]\nname = "links"\nlinks = 1\n')
    assert "reload refused" in place.server.whole_log()
    assert (await send(alice, "plugh"))["name"] == "forbidden", "what held before holds on"
    assert "realtime_chat_filter_refused_total" in get(f"{place.server.url}/metrics")[2].decode()


async def test_a_hidden_message_is_nowhere_but_with_moderators(place):
    place.start()
    alice, bob = await place.member("alice"), await place.member("bob")
    said = await send(alice, "a secret of alice's")
    await send(alice, "something else")
    report = await put(bob, "chat_report", id=said["id"], reason="private")
    assert report["state"] == "open"
    again = await put(bob, "chat_report", id=said["id"], reason="very private")
    assert again == report, "one report of a user on a message"
    assert (await put(bob, "chat_reports"))["name"] == "forbidden"
    assert (await put(bob, "chat_hide", id=said["id"], hidden=True))["name"] == "forbidden"
    mod = await place.member("mona", "mod", room=None)
    (waiting,) = (await put(mod, "chat_reports"))["reports"]
    assert (waiting["by"], waiting["reason"]) == ("bob", "very private")
    assert waiting["message"]["text"] == "a secret of alice's"
    done = await put(mod, "chat_resolve", report=report["report"], verdict="hide")
    assert done == {"report": report["report"], "state": "hidden"}
    push = await until(bob, "chat_hide")
    assert push["content"] == {"id": said["id"], "hidden": True}
    assert b"secret" not in await place.pushes()
    assert await place.rows("SELECT text FROM chat_messages WHERE hidden_ms > 0") == [("",)]
    assert (await put(mod, "chat_resolve", report=report["report"], verdict="dismiss"))["name"] == "conflict"
    assert (await put(bob, "chat_report", id=said["id"], reason="x"))["name"] == "bad_message"
    (kept,) = (await put(mod, "chat_reports", state="hidden"))["reports"]
    assert kept["message"]["text"] == "a secret of alice's"
    # The author appeals; others cannot, and learn nothing.
    assert (await put(bob, "chat_appeal", id=said["id"], text="?"))["name"] == "bad_message"
    appeal = await put(alice, "chat_appeal", id=said["id"], text="it is mine")
    (own,) = (await put(alice, "chat_appeals"))["appeals"]
    assert "text" not in own["message"]
    assert (await put(bob, "chat_appeals"))["appeals"] == []
    (asked,) = (await put(mod, "chat_appeals"))["appeals"]
    assert (asked["by"], asked["message"]["hidden"]) == ("alice", True)
    assert (await put(mod, "chat_resolve", report=appeal["report"], verdict="hide"))["name"] == "bad_message"
    restored = await put(mod, "chat_resolve", report=appeal["report"], verdict="restore")
    assert restored["state"] == "restored"
    assert (await until(bob, "chat_hide"))["content"]["hidden"] is False
    assert b"a secret of alice's" in await place.pushes()
    assert await place.rows("SELECT count(*) FROM chat_hidden") == [(0,)]
    recorded = await acts(place)
    assert [(act, actor) for act, actor, _ in recorded if act not in ("chat_reports", "chat_appeals")] == [
        ("chat_report", "bob"),  # its repeat is counted with it
        ("chat_hide", "mona"),
        ("chat_resolve", "mona"),
        ("chat_appeal", "alice"),
        ("chat_hide", "mona"),
        ("chat_resolve", "mona"),
    ]


async def test_whoever_hid_a_message_does_not_decide_where_another_moderator_can(place):
    place.start()
    alice, mod = await place.member("alice"), await place.member("mona", "mod")
    said = await send(alice, "a secret")
    assert await put(mod, "chat_hide", id=said["id"]) == {}
    appeal = await put(alice, "chat_appeal", id=said["id"], text="it is mine")
    place.server.stop()
    insert = (
        "INSERT INTO chat_members (room, user_id, role, since_ms, banned_until_ms, muted_until_ms) "
        "SELECT id, 'max', 3, 0, 0, 0 FROM rooms"
    )
    await place.change(insert)
    place.server.start()
    mod, other = await place.member("mona", "mod"), await place.member("max", "mod")
    refused = await put(mod, "chat_resolve", report=appeal["report"], verdict="restore")
    assert (refused["name"], "another moderator" in refused["message"]) == ("forbidden", True)
    assert (await put(other, "chat_resolve", report=appeal["report"], verdict="dismiss"))[
        "state"
    ] == "dismissed"


async def test_reports_of_one_user_are_bounded_and_paged(place):
    place.start(chat_reports_open=3)
    alice, bob = await place.member("alice"), await place.member("bob")
    ids = [(await send(alice, f"message {n}"))["id"] for n in range(4)]
    answers = [await put(bob, "chat_report", id=id, reason="r") for id in ids]
    assert [answer.get("name") for answer in answers] == [None, None, None, "rate_limited"]
    assert answers[3]["limit"] == "chat_reports_open"
    mod = await place.member("mona", "mod")
    first = await put(mod, "chat_reports", limit=2)
    rest = await put(mod, "chat_reports", limit=2, after=first["after"])
    found = [each["message"]["id"] for each in first["reports"] + rest["reports"]]
    assert (found, first["more"], rest["more"]) == (ids[:3], True, False)


async def test_a_hidden_room_and_an_absent_one_are_answered_alike(place):
    place.start()
    alice = await place.member("alice", room=None)
    for type, content in (
        ("chat_report", {"id": "1" * 19, "reason": "x"}),
        ("chat_reports", {}),
        ("chat_appeal", {"id": "1" * 19, "text": "x"}),
        ("chat_hide", {"id": "1" * 19}),
        ("chat_resolve", {"report": "1" * 19, "verdict": "hide"}),
    ):
        refused = await put(alice, type, "chat:~0123456789abcdef01234567", **content)
        assert (refused["name"], refused["message"]) == ("forbidden", "you may not join this room"), type
