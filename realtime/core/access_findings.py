"""What is odd about rules that hold: that they never match, change nothing, or are covered by a denial.

None of it is an error. It is for whoever writes a policy; a running server does not look for it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

from realtime.core.access import JOIN, actions_of
from realtime.core.catalog import Catalog
from realtime.core.patterns import matcher
from realtime.policy.access import Access, Rule


def findings(access: Access, catalog: Catalog) -> Iterator[str]:
    """Yield one sentence for each, in the order of the rules."""
    denials = [_Denial(place, rule) for place, rule in enumerate(access.rules) if rule.effect == "deny"]
    for place, rule in enumerate(access.rules):
        for said in _of_rule(access, rule, catalog, denials):
            yield f"access.rules[{place}] {said}"
    joins = (rule for rule in access.rules if rule.effect == "allow" and _matches_one(rule.actions, {JOIN}))
    if access.default == "deny" and not any(joins):
        yield "access: nobody may join any room: the default is deny, and no rule allows join"


def _of_rule(access: Access, rule: Rule, catalog: Catalog, denials: Iterable[_Denial]) -> Iterator[str]:
    unknown = sorted(set(rule.roles) - _known_roles(access, rule))
    if unknown:
        yield f"speaks of roles that access.roles does not have: {', '.join(map(repr, unknown))}"
    if not _can_match(rule, catalog):
        kinds = ", ".join(sorted(_kinds_of(rule, catalog)))
        yield f"never matches: {', '.join(rule.actions)} is nothing that is done in rooms of kind {kinds}"
    elif rule.effect == "allow":
        by = next((denial.place for denial in denials if denial.covers(rule)), None)
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
        if pattern == "*" or _matches_one([pattern], access.roles) or _matches_one(access.roles, [pattern])
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


class _Denial:
    """A rule that denies, ready to be asked what it covers.

    A pattern read as a name: its `*` can only have been taken by another's, so what fits covers it. Two
    patterns that cover a third together are not seen.
    """

    def __init__(self, place: int, rule: Rule) -> None:
        self.place = place
        self._actions = matcher(rule.actions)
        self._axes = [
            (operator.attrgetter(name), matcher(getattr(rule, name)))
            for name in ("rooms", "roles", "tenants")
        ]

    def covers(self, rule: Rule) -> bool:
        """Whether it denies whatever `rule` allows."""
        return all(all(map(matches, patterns(rule))) for patterns, matches in self._axes) and all(
            # A first word stands for all actions that begin with it.
            self._actions(action) or self._actions(action.partition(":")[0])
            for action in rule.actions
        )


def _matches_one(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return any(map(matcher(patterns), names))
