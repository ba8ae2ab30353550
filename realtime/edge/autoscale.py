"""When there should be more workers, or could be fewer: a signal that does not flutter, and who is told.

Whoever starts and stops workers (a script, systemd, an orchestrator) reads `realtime_autoscale_signal`, or is
told by a webhook: one POST a change of the signal, signed, tried again until it is taken or the signal has
changed once more. docs/autoscaling.md says how to use both.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from realtime.core.contracts import Clock
from realtime.core.posting import Post
from realtime.edge.load import Load
from realtime.edge.metrics import Metric, counter, gauge
from realtime.errors import Unavailable
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

# Fewer workers are asked for later than more: what is too much costs money, what is too little costs users.
DOWN_PATIENCE: Final = 5
BACK_OFF_MIN_S: Final = 1.0
BACK_OFF_MAX_S: Final = 60.0
POST_TIMEOUT_S: Final = 5.0
SIGNATURE: Final = "Realtime-Signature"


class Signal(IntEnum):
    """What should become of the number of workers; the value of `realtime_autoscale_signal`."""

    DOWN = -1
    STEADY = 0
    UP = 1


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on the signal changes, and for how long it has to be like that (see `Trigger`)."""

    up: float
    down: float
    lag_s: float
    after_s: float

    @classmethod
    def of(cls, settings: Settings) -> Thresholds:
        """Those of the settings."""
        return cls(
            up=settings.autoscale_up_ratio,
            down=settings.autoscale_down_ratio,
            lag_s=settings.autoscale_lag_ms / 1000,
            after_s=settings.autoscale_after_s,
        )

    @property
    def band(self) -> float:
        """How far below `up`, or above `down`, it is over again: a quarter of what lies between them."""
        return (self.up - self.down) / 4


@dataclass(frozen=True, slots=True)
class Change:
    """The signal has changed at `at` (Unix time): from what to what, over which resource, at which load."""

    signal: Signal
    previous: Signal
    reason: str
    load: Load
    at: float


class Trigger:
    """Makes a signal of the load that it is shown, every few seconds or more often.

    UP begins when the utilization was at least `up`, or the loop at least `lag_s` late, for `after_s` without
    a break; it ends when the one was below `up - band` and the other below half of `lag_s` for as long. DOWN
    begins when the utilization was at most `down` for five times that, and ends once it is above
    `down + band` for `after_s`. From one to the other it goes through STEADY.
    """

    def __init__(self, thresholds: Thresholds, clock: Clock) -> None:
        self._thresholds = thresholds
        self._clock = clock
        self._wanted = Signal.STEADY
        self._wanted_since = 0.0
        self.signal = Signal.STEADY

    def look(self, load: Load) -> Change | None:
        """Return the change that this load brings, if it brings one."""
        now = self._clock.monotonic()
        wanted = self._wants(load)
        if wanted is not self._wanted:
            self._wanted, self._wanted_since = wanted, now
        patience = DOWN_PATIENCE if wanted is Signal.DOWN else 1
        if wanted is self.signal or now - self._wanted_since < self._thresholds.after_s * patience:
            return None
        previous, self.signal = self.signal, wanted
        return Change(wanted, previous, self._reason(load), load, self._clock.time())

    def current(self, load: Load) -> Change | None:
        """Return the signal that there is as a change from none; None where it asks for nothing."""
        if self.signal is Signal.STEADY:
            return None
        return Change(self.signal, Signal.STEADY, self._reason(load), load, self._clock.time())

    def _wants(self, load: Load) -> Signal:
        limits, used = self._thresholds, load.utilization
        if used >= limits.up or load.lag_s >= limits.lag_s:
            return Signal.UP if self.signal is not Signal.DOWN else Signal.STEADY
        if self.signal is Signal.UP:
            over = used < limits.up - limits.band and load.lag_s < limits.lag_s / 2
            return Signal.STEADY if over else Signal.UP
        if self.signal is Signal.DOWN:
            return Signal.STEADY if used > limits.down + limits.band else Signal.DOWN
        return Signal.DOWN if limits.down and used <= limits.down else Signal.STEADY

    def _reason(self, load: Load) -> str:
        if load.lag_s >= self._thresholds.lag_s and load.utilization < self._thresholds.up:
            return "loop_lag"
        return load.busiest


class Webhook:
    """Tells one receiver of changes: the newest, until it is taken."""

    def __init__(self, url: str, secret: str, post: Post, clock: Clock) -> None:
        self._url = url
        self._secret = secret.encode()
        self._post = post
        self._clock = clock
        self._newest: bytes | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.told = 0
        self.failures = 0

    def tell(self, body: bytes) -> None:
        """Have the receiver told; what it was to be told before, and has not been, is out of date."""
        self._newest = body
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Tell nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        wait_s = BACK_OFF_MIN_S
        while (body := self._newest) is not None:
            self._news.clear()
            try:
                await self._post(self._url, body, self._headers(body), timeout_s=POST_TIMEOUT_S)
            except Unavailable as error:
                self.failures += 1
                log.warning("the autoscale webhook failed, again in %g s: %s", wait_s, error)
                news = await self._pause(wait_s)
                wait_s = BACK_OFF_MIN_S if news else min(2 * wait_s, BACK_OFF_MAX_S)
                continue
            self.told += 1
            if self._newest is body:
                self._newest = None

    async def _pause(self, wait_s: float) -> bool:
        """Wait; True when there are news before that is over."""
        waiting = asyncio.create_task(self._news.wait())
        done, _ = await asyncio.wait([waiting], timeout=wait_s)
        waiting.cancel()
        return bool(done)

    def _headers(self, body: bytes) -> dict[str, str]:
        at = str(int(self._clock.time()))
        return {"Content-Type": "application/json", SIGNATURE: signature(self._secret, at, body)}


def signature(secret: bytes, at: str, body: bytes) -> str:
    """What proves a body and its time: `t=<Unix seconds>,v1=<HMAC-SHA256 of "t.body", in hex>`."""
    return f"t={at},v1={hmac.digest(secret, f'{at}.'.encode() + body, 'sha256').hex()}"


class Autoscaler:
    """The signal of one process, and its webhook where the settings name one.

    `who` is the node or supervisor that speaks, `workers` how many it speaks for. While `speaks` says that
    another worker does, the signal is kept all the same, and nobody is told; whoever speaks from then on
    tells of its own where that asks for something.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        post: Post,
        *,
        who: str,
        workers: Callable[[], int],
        speaks: Callable[[], bool] = lambda: True,
    ) -> None:
        self._trigger = Trigger(Thresholds.of(settings), clock)
        self._who = who
        self._workers = workers
        self._speaks = speaks
        self._spoke = False
        self._webhook: Webhook | None = None
        if settings.autoscale_webhook_url:
            self._webhook = Webhook(
                settings.autoscale_webhook_url, settings.autoscale_webhook_secret, post, clock
            )

    def look(self, load: Load) -> None:
        """Note how busy it is; every few seconds, or more often."""
        change = self._trigger.look(load)
        if change is not None:
            log.info("autoscale signal: %s, over %s", change.signal.name.lower(), change.reason or "nothing")
        if self._webhook is None:
            return
        spoke, self._spoke = self._spoke, self._speaks()
        if self._spoke and not spoke and change is None:
            change = self._trigger.current(load)  # whoever spoke before has told of itself
        if self._spoke and change is not None:
            self._webhook.tell(self._body(change))

    def close(self) -> None:
        """Tell nothing more."""
        if self._webhook is not None:
            self._webhook.close()

    def metrics(self) -> Iterator[Metric]:
        """The signal, and what became of the webhook."""
        help = "1 while more workers are asked for, -1 while fewer would do, 0 else."
        yield gauge("realtime_autoscale_signal", help, int(self._trigger.signal))
        told = failures = 0
        if self._webhook is not None:
            told, failures = self._webhook.told, self._webhook.failures
        yield counter("realtime_autoscale_webhooks_total", "Changes of the signal that were taken.", told)
        help = "Times that the autoscale webhook was not taken."
        yield counter("realtime_autoscale_webhook_failures_total", help, failures)

    def _body(self, change: Change) -> bytes:
        return msgspec.json.encode(
            {
                "event": "autoscale",
                "signal": change.signal.name.lower(),
                "previous": change.previous.name.lower(),
                "reason": change.reason,
                "utilization": round(change.load.utilization, 4),
                "resources": {name: round(ratio, 4) for name, ratio in change.load.parts.items()},
                "loop_lag_s": round(change.load.lag_s, 6),
                "connections": change.load.connections,
                "workers": self._workers(),
                "from": self._who,
                "at": round(change.at, 3),
            }
        )
