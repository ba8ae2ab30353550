"""Who may do what in which room: the policy's rules, compiled to a check of a few lookups.

A request is allowed when no rule that denies it matches, and one that allows it does or `default` is allow.
What a room's kind says (`may_join`, `may_publish`) stays the upper bound and is asked elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, NoReturn

from realtime.core import audit
from realtime.core.audit import NO_AUDITOR, Auditor, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.kinds import RoomKind
from realtime.core.patterns import matcher
from realtime.core.powers import POWERS
from realtime.core.remembered import Remembered
from realtime.core.rule_index import Bits, Names, OwnRooms, Rooms
from realtime.core.session import Session
from realtime.errors import Forbidden, SettingsError
from realtime.ids import TenantId
from realtime.policy import Access as Section

JOIN: Final = "join"
HISTORY: Final = "history"
PRESENCE: Final = "presence"

ROOMS_REMEMBERED: Final = 20_000
WHO_REMEMBERED: Final = 10_000
RIGHTS_REMEMBERED: Final = 10_000

Commit = Callable[[], None]
Who = tuple[TenantId, frozenset[str]]


class Rights(NamedTuple):
    """What somebody may do in one room; `types` are those that they may send there, of all it takes."""

    join: bool
    history: bool
    presence: bool
    types: frozenset[str]


class Decision(NamedTuple):
    """An answer and the rule that gave it: its place in the policy, None where it was the default."""

    allowed: bool
    rule: int | None


def actions_of(catalog: Catalog) -> dict[str, str]:
    """Return every action there is by its full name, such as `publish:chat_message`, with its first word."""
    named = [
        *(JOIN, HISTORY, PRESENCE),
        *POWERS,
        *(permission for feature in catalog.features for permission in feature.permissions),
        *(sending(catalog, type) for type in catalog.messages),
    ]
    return {action: action.partition(":")[0] for action in named}


def sending(catalog: Catalog, type: str) -> str:
    """Return the action that sending a message of `type` is: of a plain one the same, whether or not its
    feature runs.
    """
    message = catalog.messages[type]
    owned = message.owner is not None and not message.plain
    head = "signal" if message.ephemeral else "command" if owned else "publish"
    return f"{head}:{type}"


class Rules:
    """The rules of one policy, compiled. All that is remembered is bounded.

    Raises:
        SettingsError: a rule speaks of an action or a kind of rooms that there is not. It would never match,
            and a denial that never matches is a hole.
    """

    def __init__(self, section: Section, catalog: Catalog) -> None:
        rules = section.rules
        self.any = bool(rules) or section.default == "deny"
        self._default = section.default == "allow"
        self._denies: Bits = sum(1 << n for n, rule in enumerate(rules) if rule.effect == "deny")
        self._catalog = catalog
        actions = actions_of(catalog)
        known = {*actions, *actions.values()}
        named: set[str] = set()  # there are few words for actions, however many rules
        for place, rule in enumerate(rules):
            _check_actions(place, set(rule.actions) - named, known)
            check_kinds(f"access.rules[{place}]", rule.rooms, catalog)
            named.update(rule.actions)
        by_action = Names(rule.actions for rule in rules)
        self._actions = {action: by_action.find({action, head}) for action, head in actions.items()}
        self._sending = {type: self._actions[sending(catalog, type)] for type in catalog.messages}
        self._naming = {
            action: sum(1 << n for n, rule in enumerate(rules) if action in rule.actions)
            for action in (*POWERS, *(each for feature in catalog.features for each in feature.permissions))
        }
        self._roles = Names(rule.roles for rule in rules)
        self._tenants = Names(rule.tenants for rule in rules)
        self._rooms = Rooms(rule.rooms for rule in rules)
        self._known_rooms: Remembered[str, Bits | tuple[Bits, tuple[OwnRooms, ...]]]
        self._known_rooms = Remembered(ROOMS_REMEMBERED)
        self._known_who: Remembered[Who, Bits] = Remembered(WHO_REMEMBERED)
        self._known_rights: Remembered[tuple[str, Bits], Rights] = Remembered(RIGHTS_REMEMBERED)

    def rights(self, identity: Identity, kind: RoomKind, room: str) -> Rights:
        """Return all that `identity` may do in `room`."""
        bits = self._speaking(identity, room)
        key = (kind.name, bits)
        rights = self._known_rights.get(key)
        if rights is None:
            rights = self._judge(kind, bits)
            self._known_rights.put(key, rights)
        return rights

    def allows(self, identity: Identity, action: str, room: str) -> bool:
        """Whether `identity` may do `action`, by its full name, in `room`.

        Raises:
            KeyError: nobody declares such an action; a mistake of ours.
        """
        return self._allows(self._speaking(identity, room) & self._actions[action])

    def grants(self, identity: Identity, action: str, room: str) -> bool:
        """Whether `identity` may do `action` in `room`, and a rule that allows it calls it by its full name.

        Raises:
            KeyError: it is no power, and no feature's permission; a mistake of ours.
        """
        bits = self._speaking(identity, room) & self._actions[action]
        return not bits & self._denies and bits & self._naming[action] != 0

    def explain(self, identity: Identity, action: str, room: str) -> Decision:
        """Return the same as `allows`, and which rule says it: of several the first."""
        bits = self._speaking(identity, room) & self._actions[action]
        deciding = bits & self._denies or bits
        return Decision(self._allows(bits), (deciding & -deciding).bit_length() - 1 if deciding else None)

    def _allows(self, bits: Bits) -> bool:
        return not bits & self._denies and (self._default or bits != 0)

    def _speaking(self, identity: Identity, room: str) -> Bits:
        """Return the rules that speak of this user in this room, whatever the action."""
        who = (identity.tenant, identity.roles)
        theirs = self._known_who.get(who)
        if theirs is None:
            theirs = self._tenants.find([identity.tenant]) & self._roles.find(identity.roles)
            self._known_who.put(who, theirs)
        found = self._known_rooms.get(room)
        if found is None:
            bits, own = self._rooms.find(room)
            found = (bits, own) if own else bits
            self._known_rooms.put(room, found)
        if isinstance(found, int):
            return found & theirs
        bits, own = found
        for pattern in own:
            if pattern.bits & theirs and pattern.fits(identity.user, room):
                bits |= pattern.bits if pattern.is_whole(identity.user) else pattern.bits & self._denies
        return bits & theirs

    def _judge(self, kind: RoomKind, bits: Bits) -> Rights:
        taken = self._catalog.types_by_kind[kind.name]
        types = frozenset(type for type in taken if self._allows(bits & self._sending[type]))
        types = taken if types == taken else types  # the same object, so that it can be told at a glance
        join, history, presence = (
            self._allows(bits & self._actions[action]) for action in (JOIN, HISTORY, PRESENCE)
        )
        return Rights(join, history, presence, types)


class Access:
    """Answers for the rules that hold now. One object for the life of a worker, whose rules may change."""

    def __init__(self, catalog: Catalog, auditor: Auditor = NO_AUDITOR) -> None:
        self.catalog = catalog
        self._auditor = auditor
        self._all = {
            kind: Rights(join=True, history=True, presence=True, types=types)
            for kind, types in catalog.types_by_kind.items()
        }
        self._rules: Rules | None = None
        self.open = True  # there are no rules: everybody may do all
        self.denied = 0  # requests and stays, since the start

    def prepare(self, section: Section) -> Commit:
        """Compile other rules; they hold when what is returned is called.

        Raises:
            SettingsError: as `Rules`.
        """
        rules = Rules(section, self.catalog)

        def commit() -> None:
            self._rules = rules if rules.any else None
            self.open = self._rules is None

        return commit

    def rights(self, identity: Identity, kind: RoomKind, room: str) -> Rights:
        """Return all that `identity` may do in `room`, by the rules alone."""
        return self._all[kind.name] if self._rules is None else self._rules.rights(identity, kind, room)

    def allows(self, identity: Identity, action: str, room: str) -> bool:
        """Whether the rules let `identity` do `action` in `room`: for what features ask.

        Raises:
            KeyError: nobody declares such an action; a mistake of ours.
        """
        return self._rules is None or self._rules.allows(identity, action, room)

    def grants(self, identity: Identity, action: str, room: str) -> bool:
        """Whether a rule that calls `action` by its full name lets `identity` do it in `room`.

        For powers over others, which nobody has by default: neither without rules, nor by those that allow
        `*`.

        Raises:
            KeyError: no feature declares such a permission; a mistake of ours.
        """
        return self._rules is not None and self._rules.grants(identity, action, room)

    def refuse(self, session: Session, action: audit.Action, room: str, what: str, message: str) -> NoReturn:
        """Put on record that the session may not do `what` in `room`, and raise Forbidden with `message`."""
        self.note(session, action, room, what)
        raise Forbidden(message)

    def note(self, session: Session, action: audit.Action, room: str, what: str) -> None:
        """Put on record that the session may not do `what` in `room`."""
        identity = session.identity
        assert identity is not None  # nobody's sessions ask for no rooms
        self.denied += 1
        self._auditor.record(
            Event(
                tenant=identity.tenant,
                action=action,
                outcome=Outcome.DENIED,
                actor=identity.user,
                source=session.connection.address,
                target=room,
                detail={"what": what},
            )
        )


def _check_actions(place: int, patterns: Iterable[str], known: set[str]) -> None:
    for pattern in patterns:
        if not any(map(matcher([pattern]), known)):
            words = sorted({action.partition(":")[0] for action in known})
            _refuse(
                f"access.rules[{place}]",
                f"no action is called {pattern!r}; they begin with {', '.join(words)}",
            )


def check_kinds(place: str, patterns: Iterable[str], catalog: Catalog) -> None:
    """Take patterns of rooms that there can be.

    Raises:
        SettingsError: one names none, or its kind is none; `place` is where in the policy it stands.
    """
    for pattern in patterns:
        kind, colon, _ = pattern.partition(":")
        if not colon and "*" not in kind:
            _refuse(place, f"{pattern!r} names no room: they are kind:id, such as chat:lobby")
        # Of a kind with a `*` or `{user}` in it, any that there is may be meant.
        if colon and "*" not in kind and "{" not in kind and kind not in catalog.kinds:
            _refuse(place, f"there is no room kind {kind!r}; there are {', '.join(sorted(catalog.kinds))}")


def _refuse(place: str, what: str) -> NoReturn:
    raise SettingsError(f"policy: {place}: {what}")
