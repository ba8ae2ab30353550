"""The union of all features: which kinds of rooms there are, which messages, and who handles them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.errors import BadMessage
from realtime.ids import RoomName, parse_room, room_kind
from realtime.protocol.messages import FROM_CLIENT, FROM_SERVER

# The protocol's own, which no feature may take; `publish` is the events feature's.
RESERVED = (FROM_CLIENT.keys() | FROM_SERVER.keys()) - {"publish"}


class Catalog:
    """What the features declare, indexed. Made once at the start.

    Raises ValueError where two features declare the same thing, or one that does not exist: that is a
    mistake of ours, found before anybody connects.
    """

    def __init__(self, features: Iterable[Feature]) -> None:
        self.features = tuple(features)
        self.kinds: dict[str, RoomKind] = {}
        self.messages: dict[str, MessageType] = {}
        self.feature_of: dict[str, Feature] = {}  # by message type
        self.types_by_kind: dict[str, frozenset[str]] = {}
        self._room_keys: dict[str, str] = {}
        for feature in self.features:
            self._add(feature)
        for message in self.messages.values():
            for name in message.kinds - self.kinds.keys():
                raise ValueError(f"message {message.name!r} is for unknown room kind {name!r}")
        for key, kind in self._room_keys.items():
            if kind not in self.kinds:
                raise ValueError(f"room key {key!r} names unknown room kind {kind!r}")
        for kind in self.kinds:
            self.types_by_kind[kind] = frozenset(
                message.name for message in self.messages.values() if kind in message.kinds
            )
        self._keys_decoder = _keys_decoder(self._room_keys)

    def kind_of(self, room: str) -> RoomKind:
        """Return the kind of a room by its name.

        Raises:
            BadMessage: it is no room's name, or there is no such kind.
        """
        name = room_kind(parse_room(room))
        kind = self.kinds.get(name)
        if kind is None:
            raise BadMessage(f"there is no room kind {name!r}; there are {', '.join(sorted(self.kinds))}")
        return kind

    def room_in(self, content: bytes | None) -> RoomName | None:
        """Return the room that a content names by a key of its own, None when it names none.

        Where it has several such keys, the one declared first decides.
        """
        if content is None or not content.startswith(b"{"):
            return None
        found = self._keys_decoder.decode(content)
        for key, kind in self._room_keys.items():
            name = getattr(found, key)
            if type(name) in (str, int):
                return RoomName(f"{kind}:{name}")
        return None

    def _add(self, feature: Feature) -> None:
        for kind in feature.kinds:
            if kind.name in self.kinds:
                raise ValueError(f"feature {feature.name!r}: room kind {kind.name!r} is declared already")
            self.kinds[kind.name] = kind
        for message in feature.messages:
            if message.name in self.messages or message.name in RESERVED:
                raise ValueError(f"feature {feature.name!r}: message {message.name!r} is declared already")
            _check(feature, message)
            self.messages[message.name] = message
            self.feature_of[message.name] = feature
        for key, name in feature.room_keys.items():
            if self._room_keys.setdefault(key, name) != name:
                raise ValueError(f"feature {feature.name!r}: room key {key!r} is declared already")


def _check(feature: Feature, message: MessageType) -> None:
    """Raise ValueError where a message's ways do not go together."""
    handled, owned = message.handler is not None, message.owner is not None
    # What is plain has a way of its own for servers where the feature does not run.
    if (message.ephemeral and not message.plain) + handled + owned > 1:
        one_of = "is ephemeral, or handled, or its owner's"
        raise ValueError(f"feature {feature.name!r}: message {message.name!r} {one_of}")
    if message.plain and feature.open is None:
        raise ValueError(
            f"feature {feature.name!r}: message {message.name!r} is plain, and nothing is opened"
        )


def _keys_decoder(room_keys: dict[str, str]) -> msgspec.json.Decoder[msgspec.Struct]:
    """A decoder that reads just these keys of an object, whatever their values are."""
    fields = [(key, Any, None) for key in room_keys]
    return msgspec.json.Decoder(msgspec.defstruct("RoomKeys", fields))
