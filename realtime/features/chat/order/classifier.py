"""The classifier that a policy names: another service that is asked what it thinks of a message.

It gets {"tenant", "room", "user", "id"?, "text"} with `X-Realtime-Signature: t=<Unix s>,v1=<hex>`, the
HMAC-SHA256 of `<Unix s>.<body>`, and answers {"verdict": "pass" | "flag" | "refuse", "reason"?}. At most
`concurrency` questions are asked at once. After five in a row without an answer nobody is asked for ten
seconds, and then one alone, to see.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from realtime.core.contracts import Clock
from realtime.core.patterns import matcher
from realtime.core.posting import Post
from realtime.errors import SettingsError, Unavailable
from realtime.ids import RoomId, UserId
from realtime.policy.chat import Classifier as Named

FAILURES_MAX: Final = 5
OPEN_S: Final = 10.0
SECRET_BYTES_MIN: Final = 16


class Answer(msgspec.Struct, frozen=True):
    """What it thinks. A reason is for moderators, and for the sender of what is refused."""

    verdict: Literal["pass", "flag", "refuse"]
    reason: Annotated[str, Meta(max_length=200)] = ""


_answers = msgspec.json.Decoder(Answer)


class Classifier:
    """Asks it.

    Raises:
        SettingsError: the variable with the secret is not set, or too short.
    """

    def __init__(self, named: Named, post: Post, clock: Clock) -> None:
        secret = os.environ.get(named.secret_env, "")
        if len(secret) < SECRET_BYTES_MIN:
            raise SettingsError(
                f"policy: chat.classifier.secret_env: the variable {named.secret_env} is not set, or has "
                f"under {SECRET_BYTES_MIN} characters"
            )
        self.named = named
        self.asked = 0
        self.failed = 0
        self._secret = secret.encode()
        self._post = post
        self._clock = clock
        self._rooms = matcher(named.rooms)
        self._tenants = matcher(named.tenants)
        self._running = 0
        self._failures = 0  # in a row
        self._closed_until = 0.0

    def speaks_of(self, room: RoomId) -> bool:
        """Whether messages of this room are shown to it."""
        return self._tenants(room.tenant) and self._rooms(room.room)

    async def ask(self, room: RoomId, user: UserId, text: str, id: str | None = None) -> Answer:
        """Return what it thinks of a message.

        Raises:
            Unavailable: it gives no answer, is asked too much at once, or is given a rest.
        """
        if self._running >= self.named.concurrency:
            raise Unavailable("the classifier is asked too much at once", retry_after_s=1.0)
        if self._failures >= FAILURES_MAX:
            if self._clock.monotonic() < self._closed_until:
                raise Unavailable("the classifier gives no answers", retry_after_s=OPEN_S)
            self._closed_until = self._clock.monotonic() + OPEN_S  # this one is to see
        self._running += 1
        self.asked += 1
        try:
            answer = await self._ask(room, user, text, id)
        except (Unavailable, msgspec.MsgspecError) as error:
            self.failed += 1
            self._failures += 1
            self._closed_until = self._clock.monotonic() + OPEN_S
            raise Unavailable("the classifier gives no answer", retry_after_s=1.0) from error
        finally:
            self._running -= 1
        self._failures = 0
        return answer

    async def _ask(self, room: RoomId, user: UserId, text: str, id: str | None) -> Answer:
        told = {"tenant": room.tenant, "room": room.room, "user": user, "text": text}
        body = msgspec.json.encode(told if id is None else told | {"id": id})
        at = str(int(self._clock.time()))
        signature = hmac.new(self._secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Realtime-Signature": f"t={at},v1={signature}"}
        named = self.named
        return _answers.decode(
            await self._post(named.url, body, headers, timeout_s=named.timeout_s, ca_file=named.ca_file)
        )
