"""The events feature: the user's event types, and a README that tells the truth about them."""

import re
from pathlib import Path

import pytest

from realtime.features.events import FEATURE
from tests.core.world import World

README = (Path(__file__).parents[2] / "realtime/features/events/README.md").read_text()
EVENTS = [
    *("music_play", "music_pause", "music_skip", "music_seek", "music_volume_change"),
    *("collaboration_edit", "collaboration_add", "collaboration_remove", "collaboration_reorder"),
    *("collaboration_share", "system_connect", "system_disconnect", "system_error", "system_maintenance"),
]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("room", ["events:news", "session:friday", "playlist:p1", "user:alice"])
def test_every_event_reaches_the_members_of_every_room(event, room):
    alice = World().member("alice")
    alice.join(room)
    alice.publish(room, {"any": ["thing"]}, type=event)
    (push,) = alice.pushes(event)
    assert (push["type"], push["room"], push["content"]) == (event, room, {"any": ["thing"]})
    assert "offset" in push


@pytest.mark.parametrize("event", EVENTS)
def test_chat_rooms_take_no_events(event):
    alice = World().member("alice")
    alice.join("chat:lobby")
    assert alice.error(event, room="chat:lobby", content={}) == "forbidden"


def test_publish_is_for_rooms_of_kind_events():
    alice = World().member("alice")
    for room in ("events:news", "chat:lobby"):
        alice.join(room)
    assert alice.ask("publish", content={"topic": "news"})["room"] == "events:news"
    assert alice.error("publish", room="chat:lobby") == "forbidden"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the README, without its head."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_readme_names_every_message_and_its_rooms():
    kinds = {kind.name for kind in FEATURE.kinds}
    told = {
        name: kinds if where == "all" else set(re.findall(r"`(\w+)`", where))
        for names, where in rows("Messages")
        for name in re.findall(r"`(\w+)`", names)
    }
    assert told == {message.name: set(message.kinds) for message in FEATURE.messages}


def test_the_readme_names_every_kind_and_what_it_has():
    told = {
        kind.strip("`"): (presence == "yes", durable == "yes") for kind, _, presence, durable in rows("Rooms")
    }
    assert told == {kind.name: (kind.presence, kind.durable) for kind in FEATURE.kinds}
    restricted = {kind.strip("`") for kind, who, *_ in rows("Rooms") if who != "everybody"}
    assert restricted == {kind.name for kind in FEATURE.kinds if kind.may_join is not None}


def test_the_readme_names_the_room_keys_in_their_order():
    told = [(key.strip("`"), room.strip("`").split(":")[0]) for key, room in rows("Which room")]
    assert told == list(FEATURE.room_keys.items())
