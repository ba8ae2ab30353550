"""`[chat]`: what may be said in chat rooms, and who else is asked about it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from realtime.policy.issuers import check_url
from realtime.policy.section import Patterns, Section

RULES_MAX = 1_000
ENTRIES_MAX = 100_000

Then = Literal["refuse", "mask", "flag"]
Word = Annotated[str, Meta(min_length=1, max_length=100)]
Words = Annotated[tuple[Word, ...], Meta(max_length=ENTRIES_MAX)]
Paths = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=4096)], ...], Meta(max_length=100)]
Expressions = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1000)], ...], Meta(max_length=200)]
Domains = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...], Meta(max_length=10_000)]
Roles = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=1000)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class ChatRule(Section, frozen=True, kw_only=True):
    """What a message in one of `rooms` may not be, and what `then`: it is refused, what it may not say is
    masked, or it is sent and flagged for the moderators. `name` is what the sender and the log are told.

    `words` (and of `word_files`, one a line) are whole words, or begin or end with `*`; those of `allow`
    pass. `patterns` are of RE2. Of one sender in one room at most `messages` are taken in `in_s` seconds, and
    the same text at most `repeats` times. A message has at most `links` links, only to `link_allow` (domains,
    with what is below them) and never to `link_deny`; who became a member less than `links_after_s` ago sends
    none. `caps_percent` is how much of at least `caps_letters` letters may be capitals, `mentions` how many
    may be named. Whoever has one of `except_roles` is spared, and with `except_moderators` whoever moderates
    the room.
    """

    name: Name
    rooms: Patterns = ("*",)
    tenants: Patterns = ("*",)
    then: Then = "refuse"
    except_roles: Roles = ()
    except_moderators: bool = False
    words: Words = ()
    word_files: Paths = ()
    allow: Words = ()
    patterns: Expressions = ()
    messages: Annotated[int, Meta(ge=0, le=10_000)] = 0
    repeats: Annotated[int, Meta(ge=0, le=1_000)] = 0
    in_s: Annotated[float, Meta(gt=0, le=3_600)] = 10.0
    links: Annotated[int, Meta(ge=0, le=1_000)] | None = None
    link_allow: Domains = ()
    link_deny: Domains = ()
    links_after_s: Annotated[float, Meta(ge=0, le=86_400 * 3660)] = 0.0
    caps_percent: Annotated[int, Meta(ge=0, le=100)] = 100
    caps_letters: Annotated[int, Meta(ge=1, le=10_000)] = 12
    mentions: Annotated[int, Meta(ge=0, le=10_000)] | None = None

    @property
    def counts(self) -> bool:
        """Whether it looks at what its sender sent before."""
        return bool(self.messages or self.repeats)

    @property
    def on_links(self) -> bool:
        """Whether it speaks of links."""
        return self.links is not None or bool(self.link_allow or self.link_deny or self.links_after_s)

    @property
    def on_words(self) -> bool:
        """Whether it has words or patterns."""
        return bool(self.words or self.word_files or self.patterns)

    def check(self) -> None:
        """Raise ValueError where it says nothing, or asks for what cannot be done."""
        shaped = self.caps_percent < 100 or self.mentions is not None
        if not (self.on_words or self.on_links or self.counts or shaped):
            raise ValueError(f"rule {self.name!r} says of no message what may not be in it")
        if self.then == "mask" and (self.counts or shaped):
            raise ValueError(f"rule {self.name!r}: only words, patterns and links can be masked")


class Classifier(Section, frozen=True, kw_only=True):
    """Who is asked about messages: `url` gets a POST of JSON, signed with the secret in the variable
    `secret_env`, and answers {"verdict": "pass" | "flag" | "refuse", "reason": …} within `timeout_s`.

    Asked `before` a message is sent, it can refuse it, and the room waits; `after` it, what is not passed is
    flagged. Where it gives no answer a message passes (`open`) or is refused (`closed`).
    """

    url: Annotated[str, Meta(max_length=2048)]
    secret_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
    ca_file: Annotated[str, Meta(max_length=4096)] = ""
    rooms: Patterns = ("*",)
    tenants: Patterns = ("*",)
    when: Literal["before", "after"] = "after"
    on_failure: Literal["open", "closed"] = "open"
    timeout_s: Annotated[float, Meta(ge=0.01, le=10)] = 0.5
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16

    def check(self) -> None:
        """Raise ValueError where nobody can be asked there, or what is asked would be in vain."""
        check_url("url", self.url)
        if self.secret_env.startswith("REALTIME_"):
            raise ValueError(f"secret_env {self.secret_env}: names with REALTIME_ are those of settings")
        if self.when == "after" and self.on_failure == "closed":
            raise ValueError("on_failure is closed, so it has to be asked before: what is sent is sent")


class Chat(Section, frozen=True, kw_only=True):
    """The rules that hold for chat messages, all that speak of a room, in their order."""

    rules: Annotated[tuple[ChatRule, ...], Meta(max_length=RULES_MAX)] = ()
    classifier: Classifier | None = None

    def check(self) -> None:
        """Raise ValueError where two rules have one name."""
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules: {', '.join(twice)} is the name of more than one")
