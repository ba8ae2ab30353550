"""What every audit log promises, whichever database it is: what is changed in it is found."""

import msgspec
import pytest

from realtime.core import audit_chain
from realtime.core.audit import Action, Event, Outcome
from realtime.core.audit_store import Filter
from realtime.errors import Unavailable
from tests.contract.audit_places import (
    ACME,
    DAY_US,
    OTHER,
    UNGUARD,
    an_event,
    entries,
    fill,
    notes,
    opened,
    reading,
    verdict,
)

KEY = b"k" * 32
HERE = "tenant = 'acme' AND seq"
COPY = (
    "INSERT INTO audit_entries SELECT tenant, {new}, at_us, until_us, events, action, outcome, actor, "
    "source, target, detail, proofs, erased, prev, hash FROM audit_entries "
    "WHERE tenant = 'acme' AND seq = {old}"
)
MOVE = "UPDATE audit_entries SET seq = seq + {by} WHERE tenant = 'acme' AND seq BETWEEN {first} AND {last}"
CUT = "UPDATE audit_chains SET seq = {0}, hash = (SELECT hash FROM audit_entries WHERE " + HERE + " = {0})"
# 3 and 4 change places; 3 stands again in front of 4; another one is put in between 2 and 3.
REORDER = [
    MOVE.format(by=97, first=3, last=3),
    MOVE.format(by=-1, first=4, last=4),
    MOVE.format(by=-96, first=100, last=100),
]
DUPLICATE = [
    MOVE.format(by=100, first=4, last=5),
    COPY.format(old=3, new=4),
    MOVE.format(by=-99, first=104, last=105),
]
INSERT = [
    MOVE.format(by=100, first=3, last=5),
    COPY.format(old=2, new=3),
    MOVE.format(by=-99, first=103, last=105),
    f"UPDATE audit_entries SET actor = 'nobody' WHERE {HERE} = 3",
]


async def test_entries_are_chained_by_tenant(audit_place):
    await fill(audit_place)
    chain = await entries(audit_place)
    assert [entry.seq for entry in chain] == [1, 2, 3, 4, 5]
    assert [entry.actor for entry in chain] == ["alice", "bob", "carol", "dave", "erin"]
    assert chain[0].prev == bytes(32)
    assert [entry.prev for entry in chain[1:]] == [entry.hash for entry in chain[:-1]]
    assert [entry.seq for entry in await entries(audit_place, OTHER)] == [1]
    found = await verdict(audit_place)
    assert (found.whole, found.entries, found.first, found.last) == (True, 5, 1, 5)


async def test_an_entry_says_what_was_recorded(audit_place):
    event = an_event("älice", detail={"code": "forbidden", "limit": 3}, target="chat:\U0001f600")
    async with opened(audit_place) as store:
        await store.append(notes(event))
    (entry,) = await entries(audit_place)
    assert (entry.actor, entry.source, entry.target) == ("älice", "192.0.2.7", "chat:\U0001f600")
    assert msgspec.json.decode(entry.detail) == {"code": "forbidden", "limit": 3}
    assert (entry.action, entry.outcome, entry.count) == ("room.join", "denied", 1)
    assert audit_chain.rfc3339(entry.at_us) == "2023-11-14T22:13:20.000000Z"


@pytest.mark.parametrize("text", ["\0", "\ud800", "x" * 100_000, "\x1b[31m\r\n", ""])
async def test_whatever_a_name_holds_is_kept_and_verifies(audit_place, text: str):
    async with opened(audit_place) as store:
        await store.append(notes(an_event(text, target=text, source=text, detail={"said": text})))
    (entry,) = await entries(audit_place)
    assert len(entry.actor) <= 512
    assert (await verdict(audit_place)).whole


@pytest.mark.parametrize(
    ("change", "seq", "says"),
    [
        ([f"UPDATE audit_entries SET actor = 'mallory' WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET source = '' WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET target = 'chat:x' WHERE {HERE} = 3"], 3, "changed"),
        ([f"""UPDATE audit_entries SET detail = '{{"a":1}}' WHERE {HERE} = 3"""], 3, "changed"),
        ([f"UPDATE audit_entries SET outcome = 'allowed' WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET action = 'room.read' WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET at_us = at_us + 1 WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET until_us = until_us + 1 WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET events = 2 WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET tenant = 'other', seq = 2 WHERE {HERE} = 5"], 4, "ends here"),
        ([f"UPDATE audit_entries SET hash = prev WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET actor = NULL WHERE {HERE} = 3"], 3, "changed"),
        ([f"UPDATE audit_entries SET erased = '5' WHERE {HERE} = 3"], 5, "erased them, and it does not"),
        ([f"DELETE FROM audit_entries WHERE {HERE} = 3"], 3, "missing"),
        ([f"DELETE FROM audit_entries WHERE {HERE} IN (2, 3)"], 2, "missing, with all up to entry 3"),
        ([f"DELETE FROM audit_entries WHERE {HERE} = 1"], 1, "no entry says that they went"),
        ([f"DELETE FROM audit_entries WHERE {HERE} = 5"], 4, "ends here"),
        (["DELETE FROM audit_entries WHERE tenant = 'acme'"], 5, "empty"),
        (["DELETE FROM audit_chains WHERE tenant = 'acme'"], 5, "none"),
        (REORDER, 3, "follow"),
        (DUPLICATE, 4, "follow"),
        (INSERT, 3, "follow"),
        ([COPY.format(old=3, new=6)], 6, "follow"),
        (["UPDATE audit_chains SET seq = 6 WHERE tenant = 'acme'"], 5, "ends here"),
    ],
)
async def test_verify_finds_what_was_changed_and_names_the_first(audit_place, change, seq: int, says: str):
    await fill(audit_place)
    assert (await verdict(audit_place)).whole
    await audit_place.execute(UNGUARD[audit_place.dialect], *change)
    found = await verdict(audit_place)
    assert not found.whole
    assert (found.flaws[0].seq, says in found.flaws[0].what) == (seq, True), found.flaws


async def test_content_replaced_together_with_its_hash_breaks_the_next_entry(audit_place):
    await fill(audit_place)
    third = (await entries(audit_place))[2]
    forged = msgspec.structs.replace(third, actor="mallory")
    forged_hash = audit_chain.entry_hash(forged).hex()
    literal = f"x'{forged_hash}'" if audit_place.dialect == "sqlite" else f"'\\x{forged_hash}'"
    await audit_place.execute(
        UNGUARD[audit_place.dialect],
        f"UPDATE audit_entries SET actor = 'mallory', hash = {literal} WHERE {HERE} = 3",
    )
    found = await verdict(audit_place)
    assert [(flaw.seq, "follow" in flaw.what) for flaw in found.flaws] == [(4, True)]


async def test_a_tail_that_was_cut_off_with_the_note_of_it_shows_against_a_hash_noted_before(audit_place):
    await fill(audit_place)
    noted = {5: (await verdict(audit_place)).hash}
    await audit_place.execute(
        UNGUARD[audit_place.dialect],
        CUT.format(3) + " WHERE tenant = 'acme'",
        f"DELETE FROM audit_entries WHERE {HERE} > 3",
    )
    assert (await verdict(audit_place)).whole, "a chain alone cannot tell: the docs say so"
    found = await verdict(audit_place, expected=noted)
    assert (found.flaws[0].seq, "cut off" in found.flaws[0].what) == (5, True)


async def test_a_hash_noted_before_still_holds_when_the_chain_has_grown(audit_place):
    await fill(audit_place)
    noted = {5: (await verdict(audit_place)).hash}
    await fill(audit_place)
    assert (await verdict(audit_place, expected=noted)).whole


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM audit_entries WHERE {HERE} = 5",
        f"UPDATE audit_entries SET actor = 'mallory' WHERE {HERE} = 5",
        "DELETE FROM audit_entries",
    ],
)
async def test_the_database_itself_refuses_changes(audit_place, statement: str):
    await fill(audit_place)
    with pytest.raises(Exception, match="append-only"):
        await audit_place.execute(statement)
    assert (await verdict(audit_place)).entries == 5


# ---------------------------------------------------------------- the seal


async def test_a_sealed_chain_cannot_be_rewritten_without_the_key(audit_place):
    async with opened(audit_place, KEY) as store:
        await store.append(notes(an_event("alice"), an_event("bob")))
    assert (await verdict(audit_place, key=KEY)).whole
    assert (await verdict(audit_place)).remarks == ["it is sealed: give audit_key to have the seal checked"]
    await audit_place.execute(
        UNGUARD[audit_place.dialect],
        CUT.format(1) + " WHERE tenant = 'acme'",
        f"DELETE FROM audit_entries WHERE {HERE} > 1",
    )
    found = await verdict(audit_place, key=KEY)
    assert "the seal is not this key's" in found.flaws[0].what


async def test_a_server_says_so_when_it_finds_another_seal_than_its_own(audit_place):
    async with opened(audit_place, b"other" * 8) as store:
        await store.append(notes(an_event("alice")))
    async with opened(audit_place, KEY) as store:
        await store.append(notes(an_event("bob")))
        await store.append(notes(an_event("carol")))
    chain = await entries(audit_place)
    assert [entry.action for entry in chain] == ["room.join", "audit.seal", "room.join", "room.join"]
    found = await verdict(audit_place, key=KEY)
    assert [(flaw.seq, "another" in flaw.what) for flaw in found.flaws] == [(2, True)]


async def test_a_chain_begun_without_a_key_is_sealed_from_then_on(audit_place):
    await fill(audit_place)
    assert "bears no seal" in (await verdict(audit_place, key=KEY)).flaws[0].what
    async with opened(audit_place, KEY) as store:
        await store.append(notes(an_event("frank")))
    found = await verdict(audit_place, key=KEY)
    assert found.whole
    assert found.remarks == ["sealed from entry 6 on; what is before bore no seal"]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("wanted", "actors"),
    [
        (Filter(user="bob"), ["bob", "server"]),
        (Filter(action="room.publish"), ["carol"]),
        (Filter(outcome="allowed"), ["carol"]),
        (Filter(since_us=1_000_000_000_000_002), ["carol", "server"]),
        (Filter(until_us=1_000_000_000_000_002), ["alice", "bob"]),
        (Filter(user="bob", action="room.join"), ["bob"]),
        (Filter(user="' OR 1=1 --"), []),
    ],
)
async def test_what_is_asked_for_is_found(audit_place, wanted: Filter, actors: list[str]):
    events = [
        an_event("alice"),
        an_event("bob"),
        an_event("carol", action=Action.PUBLISH, outcome=Outcome.ALLOWED),
        an_event("server", action=Action.CLOSE, target="bob"),
    ]
    async with opened(audit_place) as store:
        await store.append(notes(*events, at_us=1_000_000_000_000_000))
    assert [entry.actor for entry in await entries(audit_place, wanted=wanted)] == actors
    async with reading(audit_place) as reader:
        assert [each.actor for each in await reader.newest(ACME, wanted, 10)] == actors[::-1]
        assert [head.tenant for head in await reader.heads()] == [ACME]


async def test_a_reader_sees_one_moment_while_the_log_goes_on(audit_place):
    await fill(audit_place)
    async with reading(audit_place) as reader, opened(audit_place) as store:
        before = await reader.heads()
        await store.append(notes(an_event("frank")))
        assert [entry.seq async for entry in reader.entries(ACME)] == [1, 2, 3, 4, 5]
        assert await reader.heads() == before
    assert len(await entries(audit_place)) == 6


# ---------------------------------------------------------------- retention


async def test_retention_drops_from_the_front_and_the_chain_still_verifies(audit_place):
    await fill(audit_place)
    noted = {3: (await entries(audit_place))[2].hash}
    async with opened(audit_place) as store:
        await store.append(notes(an_event("frank"), at_us=1_700_000_000_000_000 + DAY_US))
        while await store.retain(1_700_000_000_000_000 + 3):
            pass
    chain = await entries(audit_place)
    assert [(entry.seq, entry.action) for entry in chain] == [
        *((seq, "room.join") for seq in (4, 5, 6)),
        (7, "audit.retention"),
    ]
    found = await verdict(audit_place, expected=noted)
    assert (found.whole, found.dropped, found.first) == (True, 3, 4)
    assert (await verdict(audit_place, OTHER)).whole


async def test_retention_goes_on_over_its_own_entries_and_never_drops_the_end(audit_place):
    async with opened(audit_place) as store:
        for day in range(5):
            await store.append(notes(an_event(f"user{day}"), at_us=1_700_000_000_000_000 + day * DAY_US))
            while await store.retain(1_700_000_000_000_000 + day * DAY_US):
                pass
            found = await verdict(audit_place)
            assert found.whole, found.flaws
        assert await store.retain(2**60) > 0
        assert await store.retain(2**60) > 0, "its own entries are as old"
    found = await verdict(audit_place)
    assert found.whole
    assert found.entries >= 1


async def test_more_may_not_go_than_the_log_says(audit_place):
    await fill(audit_place)
    async with opened(audit_place) as store:
        await store.append(notes(an_event("frank")))
        await store.retain(1_700_000_000_000_000 + 2)
    await audit_place.execute(UNGUARD[audit_place.dialect], f"DELETE FROM audit_entries WHERE {HERE} = 3")
    found = await verdict(audit_place)
    assert (found.flaws[0].seq, "entries 1 to 3" in found.flaws[0].what) == (1, True)


async def test_what_went_for_its_age_cannot_be_held_against_a_hash_that_was_noted(audit_place):
    await fill(audit_place)
    noted = {2: (await entries(audit_place))[1].hash}
    async with opened(audit_place) as store:
        await store.append(notes(an_event("frank"), at_us=1_700_000_000_000_000 + DAY_US))
        await store.retain(1_700_000_000_000_000 + 4)
    assert "cannot be checked" in (await verdict(audit_place, expected=noted)).flaws[0].what


# ---------------------------------------------------------------- erasing a user


def erasure(pseudonym: str = "erased:1") -> Event:
    return Event(
        tenant=ACME, action=Action.ERASE, outcome=Outcome.ALLOWED, actor="operator", target=pseudonym
    )


async def erase(place, user: str = "bob") -> int:
    erased = 0
    async with opened(place) as store:
        while gone := await store.erase(ACME, user, erasure()):
            erased += gone
    return erased


async def test_a_user_is_erased_and_the_chain_still_verifies(audit_place):
    events = [
        an_event("alice"),
        an_event("bob", detail={"x": 1}),
        an_event("operator", action=Action.KICK, target="bob", source="", detail={"by": "root@host"}),
        an_event("server", action=Action.CLOSE, target="bob"),
        an_event("alice", detail={"user": "bob"}),
        an_event("bobby", target='bo"b'),
        an_event("bob", OTHER),
    ]
    async with opened(audit_place) as store:
        await store.append(notes(*events))
    before = await verdict(audit_place)
    assert await erase(audit_place) == 4
    chain = await entries(audit_place)
    assert [entry.personal for entry in chain[:6]] == [
        ("alice", "192.0.2.7", "chat:lobby", "{}"),
        (None, None, "chat:lobby", None),
        ("operator", "", None, None),
        ("server", None, None, None),
        ("alice", "192.0.2.7", "chat:lobby", None),
        ("bobby", "192.0.2.7", 'bo"b', "{}"),
    ]
    assert chain[6].action == "personal.erase"
    assert msgspec.json.decode(chain[6].detail) == {"entries": 4}
    found = await verdict(audit_place, expected={before.last: before.hash})
    assert (found.whole, found.erased) == (True, 4), found.flaws
    assert [entry.actor for entry in await entries(audit_place, OTHER)] == ["bob"]
    assert await erase(audit_place) == 0


async def test_nothing_of_an_erased_user_is_left_in_the_database(audit_place):
    marker = "planted-user-7f3a"
    async with opened(audit_place) as store:
        await store.append(notes(an_event(marker), an_event("server", target=marker, detail={"u": marker})))
    await erase(audit_place, marker)
    for entry in await entries(audit_place):
        assert marker not in repr(entry)


async def test_an_entry_of_two_users_is_erased_once_for_each(audit_place):
    async with opened(audit_place) as store:
        await store.append(notes(an_event("alice", target="bob"), an_event("alice")))
    assert await erase(audit_place, "alice") == 2
    assert await erase(audit_place, "bob") == 1
    found = await verdict(audit_place)
    assert (found.whole, found.erased) == (True, 2), found.flaws


@pytest.mark.parametrize("user", ["server", "operator"])
async def test_a_user_called_as_we_call_ourselves_takes_nobody_elses_entries_along(audit_place, user: str):
    events = [an_event(user), an_event(user, action=Action.KICK, target="alice")]
    async with opened(audit_place) as store:
        await store.append(notes(*events))
    assert await erase(audit_place, user) == 1
    assert (await entries(audit_place))[1].personal == (user, "192.0.2.7", "alice", "{}")


async def test_what_somebody_erased_without_an_entry_about_it_is_found(audit_place):
    async with opened(audit_place) as store:
        await store.append(notes(*(an_event("bob") for _ in range(3)), an_event("alice")))
    assert await erase(audit_place) == 3
    fourth = (await entries(audit_place))[3]
    gone = audit_chain.erase(fourth, {"actor", "source", "target", "detail"}, 5)
    proofs = gone.proofs.hex()
    literal = f"x'{proofs}'" if audit_place.dialect == "sqlite" else f"'\\x{proofs}'"
    await audit_place.execute(
        UNGUARD[audit_place.dialect],
        f"UPDATE audit_entries SET actor = NULL, source = NULL, target = NULL, detail = NULL, "
        f"proofs = {literal}, erased = '5' WHERE {HERE} = 4",
    )
    found = await verdict(audit_place)
    assert [(flaw.seq, flaw.what) for flaw in found.flaws] == [(5, "it erased 3 entries, and 4 say so")]


async def test_erasing_and_retention_go_together(audit_place):
    async with opened(audit_place) as store:
        await store.append(notes(*(an_event("bob") for _ in range(5))))
        assert await store.erase(ACME, "bob", erasure()) == 5
        assert await store.retain(1_700_000_000_000_000 + 2) == 2
    found = await verdict(audit_place)
    assert (found.whole, found.erased) == (True, 3), found.flaws


async def test_a_database_that_is_away_is_no_other_error(audit_place):
    store = await audit_place.open()
    await audit_place.execute("DROP TABLE audit_chains")
    with pytest.raises(Unavailable):
        await store.append(notes(an_event()))
    await store.close()
