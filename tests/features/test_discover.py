"""Features are found by being there, and what they declare fits together."""

import sys

import pytest

from realtime import features
from realtime.core.catalog import Catalog
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.features import discover
from tests.core.world import World

FOLDER = '''"""A feature of this test."""
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind

FEATURE = Feature(
    name="pets",
    kinds=(RoomKind(name="pets"),),
    messages=(MessageType(name="pets_feed", kinds=frozenset({"pets"})),),
    room_keys={"pet_id": "pets"},
)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Add a feature folder called `pets`, with the source given, beside the real ones."""

    def add(source: str) -> None:
        package = tmp_path / "pets"
        package.mkdir()
        (package / "__init__.py").write_text(source)
        monkeypatch.setattr(features, "__path__", [*features.__path__, str(tmp_path)])

    yield add
    sys.modules.pop("realtime.features.pets", None)


def test_the_events_feature_is_found():
    assert "events" in [feature.name for feature in discover()]


def test_adding_a_folder_is_enough(folder):
    folder(FOLDER)
    alice = World().member("alice")
    alice.join("pets:rex")
    assert alice.ask("pets_feed", content={"pet_id": "rex"})["room"] == "pets:rex"


@pytest.mark.parametrize("source", ["", "FEATURE = 5"])
def test_a_folder_without_a_feature_is_named(folder, source):
    folder(source)
    with pytest.raises(TypeError, match=r"realtime\.features\.pets"):
        discover()


def kind(name: str) -> RoomKind:
    return RoomKind(name=name)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ([Feature(name="a", kinds=(kind("k"),)), Feature(name="b", kinds=(kind("k"),))], "'b'.*'k'"),
        ([Feature(name="a", messages=(MessageType(name="m"), MessageType(name="m")))], "'a'.*'m'"),
        ([Feature(name="a", messages=(MessageType(name="join"),))], "'a'.*'join'"),
        ([Feature(name="a", messages=(MessageType(name="ack"),))], "'a'.*'ack'"),
        ([Feature(name="a", messages=(MessageType(name="m", kinds=frozenset({"none"})),))], "'m'.*'none'"),
        ([Feature(name="a", room_keys={"key": "none"})], "'key'.*'none'"),
        (
            [
                Feature(name="a", kinds=(kind("k"), kind("l")), room_keys={"key": "k"}),
                Feature(name="b", room_keys={"key": "l"}),
            ],
            "'b'.*'key'",
        ),
    ],
)
def test_features_that_do_not_fit_together_are_refused_at_the_start(declared, said):
    with pytest.raises(ValueError, match=said):
        Catalog(declared)


def test_a_feature_may_add_messages_to_anothers_rooms():
    ours = Feature(name="ours", messages=(MessageType(name="ours_wave", kinds=frozenset({"chat"})),))
    alice = World(features=[*discover(), ours]).member("alice")
    alice.join("chat:lobby")
    assert alice.publish("chat:lobby", type="ours_wave")["offset"] == 1
