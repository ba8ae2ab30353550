from collections.abc import Callable
from typing import Final

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
