"""Token buckets as GCRA: inlined per connection (ratelimit.pxd), and a bounded table of them by key."""

import math
import time
from collections import OrderedDict
from hashlib import blake2b

from libc.math cimport llround
from libc.stdint cimport int64_t

# A longer key is kept as its digest, so that a table of peers' words has bounded keys too.
KEY_CHARS_MAX = 64
DIGEST_BYTES = 16

# Full buckets that a new key clears away: two for one, so that the table shrinks to the busy keys by itself.
IDLE_CHECKS = 2

RATE_PER_S_MAX = 1e9  # a unit costs at least one tick of the clock
cdef double NS_MAX = 2.0 ** 60  # GCRA's sums stay within 63 bits


cdef class KeyedLimiter:
    """One token bucket per key: `burst` units at once, then `rate_per_s`; at most `max_keys` keys kept.

    A key whose bucket is full again is as good as unknown, and goes when new keys come. Past `max_keys` the
    one unused for longest goes too, and has a full bucket when it comes back: more busy keys than that
    weaken the limit, but never lock others out. `clock` gives monotonic nanoseconds, from 0 to 2**61.
    """

    def __init__(self, double rate_per_s, double burst, Py_ssize_t max_keys, *, clock=time.monotonic_ns):
        """Raises ValueError for a rate or burst that 63-bit nanoseconds cannot hold, or no room for a key."""
        if not 0 < rate_per_s <= RATE_PER_S_MAX:
            raise ValueError(f"rate_per_s must be above 0 and at most {RATE_PER_S_MAX:.0e}, not {rate_per_s}")
        if max_keys < 1:
            raise ValueError(f"max_keys must be at least 1, not {max_keys}")
        if not 0 < burst * 1e9 / rate_per_s <= NS_MAX:
            raise ValueError(f"burst must be above 0 and refill within 2**60 ns, 36 years, not {burst}")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self.max_keys = max_keys
        self.unit_ns = 1e9 / rate_per_s
        self.burst_ns = llround(burst * self.unit_ns)
        self.clock = clock
        self.tats = OrderedDict()

    def __len__(self):
        """The keys kept now, at most `max_keys`."""
        return len(self.tats)

    def take(self, key, double cost=1.0):
        """Take `cost` units of `key`: 0.0 when allowed, else the seconds until it would be.

        A refused take costs nothing. A cost above the burst never passes: the answer is infinite.

        Raises:
            ValueError: the cost is negative or no number.
        """
        cdef int64_t now_ns = self.clock()
        cdef int64_t tat = 0, wait_ns
        if not cost >= 0:
            raise ValueError(f"cost must be at least 0, not {cost}")
        if cost > self.burst:
            return math.inf
        if len(key) > KEY_CHARS_MAX:
            key = digest(key)
        known = self.tats.get(key)
        if known is not None:
            tat = known
        wait_ns = gcra(&tat, now_ns, llround(cost * self.unit_ns), self.burst_ns)
        if known is None:
            self.make_room(now_ns)
        self.tats[key] = tat
        if known is not None:
            self.tats.move_to_end(key)
        return wait_ns / 1e9

    cdef make_room(self, int64_t now_ns):
        """Forget up to IDLE_CHECKS full buckets, and one that is not where a key too many would be kept."""
        for _ in range(IDLE_CHECKS):
            if not self.tats or self.tats[next(iter(self.tats))] > now_ns:
                break
            self.tats.popitem(last=False)
        if len(self.tats) >= self.max_keys:
            self.tats.popitem(last=False)


def digest(key):
    """A short stand-in for a long key; a tuple, so that it equals no key that came as it is."""
    if isinstance(key, str):
        return (True, blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest())
    return (False, blake2b(key, digest_size=DIGEST_BYTES).digest())
