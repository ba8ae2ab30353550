"""The commands for whoever writes a policy: `policy check` and `policy explain`. They need no server."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realtime.errors import BadMessage, SettingsError
from realtime.ids import DEFAULT_TENANT, RoomId, parse_room, parse_tenant, parse_user
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.catalog import Catalog

Read = Callable[[argparse.Namespace], Settings]
AddConfig = Callable[[argparse.ArgumentParser], None]

DENIED = 3
"""The exit code of `explain` where the answer is no."""


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add them to the parser's `commands`."""
    policy = commands.add_parser(
        "policy", help="check a policy file, or ask what it says", description="Check a policy, and ask it."
    )
    verbs = policy.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_check(verbs, add_config, read)
    _add_explain(verbs, add_config, read)


def _add_check(verbs: Any, add_config: AddConfig, read: Read) -> None:
    check = verbs.add_parser(
        "check",
        help="say whether a server would take the file",
        description="Say whether a server would take the policy, or in one line why not (exit code 1), and "
        "what in its rules is odd: those that never match, that change nothing, or that a denial covers.",
    )
    _add_file(check)
    check.add_argument("--strict", action="store_true", help="exit code 1 over what is odd, too")
    add_config(check)
    check.set_defaults(run=lambda parsed: _check(parsed, read))


def _add_explain(verbs: Any, add_config: AddConfig, read: Read) -> None:
    explain = verbs.add_parser(
        "explain",
        help="say which rule decides",
        description="Say whether a user may do something, and which rule decides. The exit code is 0 where "
        f"it is allowed and {DENIED} where it is not.",
    )
    _add_file(explain)
    explain.add_argument("--tenant", default=DEFAULT_TENANT, help=f"(default: {DEFAULT_TENANT})")
    explain.add_argument("--user", required=True, help="user id")
    explain.add_argument("--roles", default="", metavar="A,B", help="separated by commas (default: none)")
    explain.add_argument(
        "--action",
        required=True,
        help="join, history, presence, or such as publish:chat_message",
    )
    explain.add_argument("--room", required=True, help="such as chat:lobby")
    add_config(explain)
    explain.set_defaults(run=lambda parsed: _explain(parsed, read))


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="the policy (default: policy_path of the settings)"
    )


def _path(parsed: argparse.Namespace, read: Read) -> Path:
    path: Path | None = parsed.file
    if path is None:
        configured = read(parsed).policy_path
        if not configured:
            raise SettingsError("which policy? Name the FILE, or set policy_path (REALTIME_POLICY_PATH)")
        path = Path(configured)
    return path


def _check(parsed: argparse.Namespace, read: Read) -> int:
    path = _path(parsed, read)
    from realtime.core.access import Rules, check_kinds
    from realtime.core.access_findings import findings
    from realtime.core.catalog import Catalog
    from realtime.core.powers import check_keys
    from realtime.features import discover
    from realtime.policy import load_policy

    policy = load_policy(path)
    catalog = Catalog(discover())
    Rules(policy.access, catalog)
    check_keys(policy.api.keys)
    for place, key in enumerate(policy.api.keys):
        check_kinds(f"api.keys[{place}] ({key.name})", key.rooms, catalog)
    for feature in catalog.features:
        if feature.check_policy is not None:
            feature.check_policy(policy)
    for place, rule in enumerate(policy.rooms):
        check_kinds(f"rooms[{place}]", rule.rooms, catalog)
    odd = list(findings(policy.access, catalog))
    for each in odd:
        print(f"warning: {each}")
    rules, keys = _count(len(policy.access.rules), "rule"), _count(len(policy.api.keys), "API key")
    said = [f"default {policy.access.default}", rules, *([keys] if policy.api.keys else [])]
    print(f"ok: {path}: {', '.join(said)}, {_count(len(odd), 'warning')}")
    return 1 if odd and parsed.strict else 0


def _explain(parsed: argparse.Namespace, read: Read) -> int:
    path = _path(parsed, read)
    from realtime.core.access import Rules, actions_of
    from realtime.core.auth import Identity
    from realtime.core.catalog import Catalog
    from realtime.core.room_rules import RoomRules
    from realtime.features import discover
    from realtime.policy import load_policy

    policy = load_policy(path)
    access, rooms = policy.access, RoomRules(policy.rooms)
    catalog = Catalog(discover())
    roles = frozenset(filter(None, map(str.strip, parsed.roles.split(","))))
    identity = Identity(parse_user(parsed.user), parse_tenant(parsed.tenant), roles)
    kind = catalog.kind_of(parsed.room)
    actions = actions_of(catalog)
    if parsed.action not in actions:
        raise BadMessage(f"there is no action {parsed.action!r}; there are {', '.join(sorted(actions))}")
    decision = Rules(access, catalog).explain(identity, parsed.action, parsed.room)
    word = "allowed" if decision.allowed else "denied"
    if decision.rule is None:
        print(f"{word}: no rule speaks of it, and the default is {access.default}")
    else:
        rule = access.rules[decision.rule]
        print(
            f"{word} by access.rules[{decision.rule}]: {rule.effect} {', '.join(rule.actions)} "
            f"in {', '.join(rule.rooms)} to {', '.join(rule.roles)}"
        )
    bound = _bound(catalog, identity, parsed.room, parsed.action)
    if decision.allowed and bound is not None:
        print(f"denied all the same: rooms of kind {kind.name!r} {bound}")
    if rooms.of(RoomId(identity.tenant, parse_room(parsed.room))).private:
        print("the room is private: this is the most that a room token can allow")
    return 0 if decision.allowed and bound is None else DENIED


def _bound(catalog: Catalog, identity: Identity, room: str, action: str) -> str | None:
    """Return why the room's kind does not take the action from this user, whatever the rules say."""
    from realtime.ids import RoomName, id_in_kind

    kind, id = catalog.kind_of(room), id_in_kind(RoomName(room))
    type = action.partition(":")[2]
    if type and type not in catalog.types_by_kind[kind.name]:
        return f"take no {type!r}"
    if kind.may_join is not None and not kind.may_join(identity, id):
        return "do not let this user in"
    if type and kind.may_publish is not None and not kind.may_publish(identity, id, type):
        return "do not take it from this user"
    return None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
