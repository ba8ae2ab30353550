"""Who may do what, said as plainly as it can be: walk over all rules. Specification and test oracle."""

from __future__ import annotations

from realtime.core.auth import Identity
from realtime.policy import Access
from realtime.policy.access import Rule


def fits(pattern: str, name: str) -> bool:
    """Whether `name` is what `pattern` says, where `*` is anything and all else is meant literally."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and name[0] == pattern[0] and fits(pattern[1:], name[1:])


def fits_own(pattern: str, user: str, room: str) -> bool:
    """The same of a pattern with `{user}`; a `*` in the user's id means itself."""
    if not pattern:
        return not room
    if pattern.startswith("{user}"):
        return room.startswith(user) and fits_own(pattern[len("{user}") :], user, room[len(user) :])
    if pattern[0] == "*":
        return any(fits_own(pattern[1:], user, room[at:]) for at in range(len(room) + 1))
    return bool(room) and room[0] == pattern[0] and fits_own(pattern[1:], user, room[1:])


def is_whole(pattern: str, user: str) -> bool:
    """Whether nobody else's id can be read into this user's rooms: on a side of `{user}` where a `*` stands,
    the sign beside it does not occur in the id.
    """
    parts = pattern.split("{user}")
    for at in range(len(parts) - 1):
        left, right = "{user}".join(parts[: at + 1]), "{user}".join(parts[at + 1 :])
        if ("*" in left and left[-1] in user) or ("*" in right and right[0] in user):
            return False
    return True


def speaks_of_room(rule: Rule, user: str, room: str) -> bool:
    """Whether one of the rule's patterns is for this room; one that is nobody's for certain denies only."""
    for pattern in rule.rooms:
        if "{user}" not in pattern:
            if fits(pattern, room):
                return True
        elif fits_own(pattern, user, room) and (rule.effect == "deny" or is_whole(pattern, user)):
            return True
    return False


def speaks(rule: Rule, identity: Identity, action: str, room: str) -> bool:
    """Whether the rule is for this user, action and room."""
    named = (action, action.partition(":")[0])
    everybody = "*" in rule.roles
    return (
        any(fits(pattern, identity.tenant) for pattern in rule.tenants)
        and (everybody or any(fits(pattern, role) for pattern in rule.roles for role in identity.roles))
        and any(fits(pattern, name) for pattern in rule.actions for name in named)
        and speaks_of_room(rule, identity.user, room)
    )


def allows(access: Access, identity: Identity, action: str, room: str) -> bool:
    """Whether the rules allow it: none denies it, and one allows it or that is the default."""
    effects = {rule.effect for rule in access.rules if speaks(rule, identity, action, room)}
    return "deny" not in effects and ("allow" in effects or access.default == "allow")
