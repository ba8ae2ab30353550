from collections.abc import Callable, Iterable
from typing import Any, Final

KEY_CHARS_MAX: Final[int]
DIGEST_BYTES: Final[int]
IDLE_CHECKS: Final[int]
RATE_PER_S_MAX: Final[float]

class KeyedLimiter:
    rate_per_s: float
    burst: float
    max_keys: int
    def __init__(
        self, rate_per_s: float, burst: float, max_keys: int, *, clock: Callable[[], int] = ...
    ) -> None: ...
    def __len__(self) -> int: ...
    def take(self, key: str | bytes, cost: float = 1.0) -> float: ...
    def export(self) -> list[tuple[Any, int]]:
        """Return (key, when its bucket is full again in ns) of those that are not full, oldest first."""
    def adopt(self, buckets: Iterable[tuple[Any, int]]) -> None:
        """Take over what another limiter, of whatever rate, has exported: by the same clock.

        Where this one has a shorter burst nobody owes more than that.

        Raises:
            ValueError: it has what is no time.
        """

class Tariff:
    """What each user, or each tenant, may send a second: messages, bytes, deliveries; 0 does not limit.

    `burst_s` seconds of each rate may come at once. `limits` are the names of the three, for answers. Where
    several share the rates, `share` is this one's part of them; answers name the whole.
    """

    limits: tuple[str, str, str]
    rates: tuple[float, float, float]
    burst_s: float
    def __init__(
        self,
        limits: tuple[str, str, str],
        rates: tuple[float, float, float],
        burst_s: float,
        *,
        share: float = 1.0,
        clock: Callable[[], int] = ...,
    ) -> None: ...
    def change(self, rates: tuple[float, float, float], burst_s: float, share: float = 1.0) -> None:
        """Let other rates hold from now on, for the allowances there are too; what they owe stays owed.

        Raises:
            ValueError: a rate is not 0 or from 1e-3 to 1e9, the burst not above 0 and at most a year, or the
                share not above 0 and at most 1.
        """

class Allowance:
    """What one user, or one tenant, may still send: three buckets, shared by all who hold it.

    `above` is where all that is taken here is taken too; `holders` counts who draws on it.
    """

    tariff: Tariff
    above: Allowance | None
    holders: int
    def __init__(self, tariff: Tariff) -> None: ...
    def take(self, messages: float, octets: float, deliveries: float) -> tuple[str, float, float] | None:
        """Take it all and return None, or take nothing and return what is in the way.

        That is (limit's name, what it allows a second, seconds to wait), of the limit with the longest wait.

        Raises:
            ValueError: an amount is negative, no number, or over 1e12.
        """
    @property
    def total(self) -> tuple[float, float, float]:
        """The messages, bytes and deliveries that were taken here since it was made."""
    @property
    def full(self) -> bool:
        """Whether it is as good as a new one: nothing is owed here."""
    def export(
        self,
    ) -> tuple[tuple[int, int, int], tuple[float, float, float], float, tuple[int, int]]:
        """Return what is owed (ns, by the clock), what was taken, the last fan-out, and until when it is
        over.
        """
    def adopt(
        self, state: tuple[tuple[int, int, int], tuple[float, float, float], float, tuple[int, int]]
    ) -> None:
        """Take over what another allowance has exported. Raises ValueError, TypeError: it is none."""
