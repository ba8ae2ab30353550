"""What is odd about rules that hold: that they never match, change nothing, or are covered by a denial.

None of it is an error. It is for whoever writes a policy; a running server does not look for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from realtime.core.access import JOIN, actions_of
from realtime.core.catalog import Catalog
from realtime.core.patterns import matcher
from realtime.policy.access import Access, Rule


def findings(access: Access, catalog: Catalog) -> Iterator[str]:
    """Yield one sentence for each, in the order of the rules."""
    for place, rule in enumerate(access.rules):
        for said in _of_rule(access, rule, catalog):
            yield f"access.rules[{place}] {said}"
    joins = (rule for rule in access.rules if rule.effect == "allow" and _matches_one(rule.actions, {JOIN}))
    if access.default == "deny" and not any(joins):
        yield "access: nobody may join any room: the default is deny, and no rule allows join"


def _of_rule(access: Access, rule: Rule, catalog: Catalog) -> Iterator[str]:
    unknown = sorted(set(rule.roles) - _known_roles(access, rule))
    if unknown:
        yield f"speaks of roles that access.roles does not have: {', '.join(map(repr, unknown))}"
    if not _can_match(rule, catalog):
        kinds = ", ".join(sorted(_kinds_of(rule, catalog)))
        yield f"never matches: {', '.join(rule.actions)} is nothing that is done in rooms of kind {kinds}"
    elif rule.effect == "allow":
        by = next((n for n, other in enumerate(access.rules) if _denies_all_of(other, rule)), None)
        if by is not None:
            yield f"never matters: access.rules[{by}] denies all that it allows"
        elif access.default == "allow":
            yield "changes nothing: what it allows is allowed by default"


def _known_roles(access: Access, rule: Rule) -> set[str]:
    """Return which of the rule's patterns of roles are for a role that there is; all, where nobody says."""
    if not access.roles:
        return set(rule.roles)
    return {
        pattern
        for pattern in rule.roles
        if pattern == "*" or _matches_one([pattern], access.roles) or _covers(access.roles, [pattern])
    }


def _kinds_of(rule: Rule, catalog: Catalog) -> set[str]:
    """Return the kinds of the rooms that a rule speaks of."""
    heads = [pattern.partition(":")[0] if ":" in pattern else "*" for pattern in rule.rooms]
    matches = matcher("*" if "{" in head else head for head in heads)
    return {kind for kind in catalog.kinds if matches(kind)}


def _can_match(rule: Rule, catalog: Catalog) -> bool:
    """Whether one of the rule's actions can be done in rooms of one of its kinds."""
    taken = {type for kind in _kinds_of(rule, catalog) for type in catalog.types_by_kind[kind]}
    done = {
        name
        for action, head in actions_of(catalog).items()
        if head == action or action.partition(":")[2] in taken
        for name in (action, head)
    }
    return _matches_one(rule.actions, done)


def _denies_all_of(other: Rule, rule: Rule) -> bool:
    """Whether `other` denies whatever `rule` allows."""
    return (
        other.effect == "deny"
        and _covers(other.roles, rule.roles)
        and _covers(other.tenants, rule.tenants)
        and _covers(other.rooms, rule.rooms)
        and _covers_actions(other.actions, rule.actions)
    )


def _covers(wide: Iterable[str], narrow: Iterable[str]) -> bool:
    """Whether each of the `narrow` patterns says no more than one of the `wide`.

    A pattern read as a name: its `*` can only have been taken by another's, so what fits covers it. Two
    patterns that cover a third together are not seen.
    """
    return all(map(matcher(wide), narrow))


def _covers_actions(wide: Iterable[str], narrow: Iterable[str]) -> bool:
    """The same of actions, where a first word stands for all that begin with it."""
    matches = matcher(wide)
    return all(matches(action) or matches(action.partition(":")[0]) for action in narrow)


def _matches_one(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return any(map(matcher(patterns), names))
