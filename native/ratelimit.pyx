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

    def export(self):
        """Return (key, when its bucket is full again in ns) of those that are not full, oldest first."""
        cdef int64_t now_ns = self.clock()
        return [(key, tat) for key, tat in self.tats.items() if tat > now_ns]

    def adopt(self, buckets):
        """Take over what another limiter, of whatever rate, has exported: by the same clock.

        Where this one has a shorter burst nobody owes more than that.

        Raises:
            ValueError: it has what is no time.
        """
        cdef int64_t latest_ns = self.clock() + self.burst_ns
        for key, tat in buckets:
            if not 0 <= tat < 1 << 62:
                raise ValueError(f"no time of a bucket: {tat}")
            if isinstance(key, list):   # what was a tuple, before it was on its way
                key = tuple(key)
            self.tats[key] = min(tat, latest_ns)
            if len(self.tats) > self.max_keys:
                self.tats.popitem(last=False)

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


cdef enum:
    KINDS = 3       # messages, bytes, deliveries: in this order everywhere

cdef double AMOUNT_MAX = 1e12
cdef int64_t OVER_NS = 1000000000      # whoever was refused counts as over its rates for so long after
cdef double COST_NS_MAX = 2.0 ** 59    # 18 years: two of them, and a year of burst, stay within 63 bits


cdef class Tariff:
    """What each user, or each tenant, may send a second: messages, bytes, deliveries; 0 does not limit.

    `burst_s` seconds of each rate may come at once. `limits` are the names of the three, for answers. Where
    several share the rates, `share` is this one's part of them; answers name the whole.
    """

    def __init__(
        self, tuple limits not None, tuple rates not None, double burst_s, *, double share=1.0,
        clock=time.monotonic_ns,
    ):
        """Raises ValueError: there are not three names, or as `change`."""
        if len(limits) != KINDS:
            raise ValueError(f"a tariff has {KINDS} limits and rates, not {len(limits)} and {len(rates)}")
        self.limits = limits
        self.clock = clock
        self.change(rates, burst_s, share)

    def change(self, tuple rates not None, double burst_s, double share=1.0):
        """Let other rates hold from now on, for the allowances there are too; what they owe stays owed.

        Raises ValueError unless there are three rates, 0 or from 1e-3 to 1e9, the burst is above 0, at most a
        year, and the share above 0, at most 1.
        """
        cdef int kind
        if len(rates) != KINDS:
            raise ValueError(f"a tariff has {KINDS} limits and rates, not {len(rates)}")
        if not 0 < burst_s <= 366 * 86_400:
            raise ValueError(f"burst_s must be above 0 and at most a year, not {burst_s}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        for kind in range(KINDS):
            if rates[kind] != 0 and not 1e-3 <= rates[kind] <= RATE_PER_S_MAX:
                raise ValueError(f"{self.limits[kind]} must be 0 or from 0.001 to {RATE_PER_S_MAX:.0e}")
        for kind in range(KINDS):
            self.unit_ns[kind] = 1e9 / (<double>rates[kind] * share) if rates[kind] else 0.0
        self.rates = rates
        self.burst_s = burst_s
        self.burst_ns = llround(burst_s * 1e9)

    cdef int64_t cost_ns(self, int kind, double amount) noexcept:
        """Return what `amount` costs: 0 where it is not limited."""
        cdef double cost = amount * self.unit_ns[kind]
        return llround(cost if cost < COST_NS_MAX else COST_NS_MAX)


cdef class Allowance:
    """What one user, or one tenant, may still send: three buckets, shared by all who hold it.

    What is taken is taken `above` too, or nothing is taken anywhere. It is exact: nothing is paid ahead, so
    nobody sends more, or later, than the buckets say. What costs more than a burst (a publish to a room of
    more members) passes when its bucket is full, and those after it wait until it is paid off: over any
    window at most rate * window + burst passes, or + the largest single cost where that is more.
    """

    def __init__(self, Tariff tariff not None):
        self.tariff = tariff
        self.standing.owner = <void*>self

    cpdef tuple take(self, double messages, double octets, double deliveries):
        """Take it all and return None, or take nothing and return what is in the way.

        That is (limit's name, what it allows a second, seconds to wait), of the limit with the longest wait.

        Raises:
            ValueError: an amount is negative, no number, or over 1e12.
        """
        cdef double[3] amounts = [messages, octets, deliveries]
        cdef int64_t now_ns = self.tariff.clock()
        cdef int64_t wait_ns
        cdef int64_t longest_ns = 0
        cdef int kind
        cdef int over_kind = 0
        cdef Allowance over = None
        cdef Allowance each = self
        for kind in range(KINDS):
            if not 0 <= amounts[kind] <= AMOUNT_MAX:
                raise ValueError(f"amounts must be from 0 to {AMOUNT_MAX:.0e}, not {amounts[kind]}")
        while each is not None:
            if deliveries:
                each.fanout = deliveries
            for kind in range(KINDS):
                wait_ns = each.wait_ns(kind, amounts[kind], now_ns)
                if wait_ns > longest_ns:
                    longest_ns, over, over_kind = wait_ns, each, kind
            each = each.above
        if over is not None:
            over.standing.over_until_ns = now_ns + OVER_NS
            over.standing.again_ns = now_ns + longest_ns
            return over.tariff.limits[over_kind], over.tariff.rates[over_kind], longest_ns / 1e9
        each = self
        while each is not None:
            for kind in range(KINDS):
                each.taken[kind] += amounts[kind]
                each.spend(kind, amounts[kind], now_ns)
            each = each.above
        return None

    cdef int64_t longest_wait_ns(self, double octets, int64_t now_ns) noexcept:
        """Return how long a message of so many bytes has to wait: 0, or less, when it passes.

        What it will be delivered to is not known before it is parsed: to as many as the last one.
        """
        cdef int64_t longest_ns = self.wait_ns(0, 1.0, now_ns)
        cdef int64_t wait_ns = self.wait_ns(1, octets, now_ns)
        if wait_ns > longest_ns:
            longest_ns = wait_ns
        wait_ns = self.wait_ns(2, self.fanout, now_ns)
        return wait_ns if wait_ns > longest_ns else longest_ns

    cdef int64_t wait_ns(self, int kind, double amount, int64_t now_ns) noexcept:
        """Return how long `amount` has to wait here: 0, or less, when it passes."""
        cdef int64_t ahead_ns = self.tats[kind] - now_ns
        cdef int64_t cost_ns = self.tariff.cost_ns(kind, amount)
        if cost_ns == 0:
            return 0
        if cost_ns > self.tariff.burst_ns:
            cost_ns = self.tariff.burst_ns
        return (ahead_ns if ahead_ns > 0 else 0) + cost_ns - self.tariff.burst_ns

    cdef void spend(self, int kind, double amount, int64_t now_ns) noexcept:
        cdef int64_t cost_ns = self.tariff.cost_ns(kind, amount)
        if cost_ns:
            self.tats[kind] = (self.tats[kind] if self.tats[kind] > now_ns else now_ns) + cost_ns

    def export(self):
        """Return what is owed (ns, by the clock), what was taken, the last fan-out, and until when it is."""
        return (
            (self.tats[0], self.tats[1], self.tats[2]),
            (self.taken[0], self.taken[1], self.taken[2]),
            self.fanout,
            (self.standing.over_until_ns, self.standing.again_ns),
        )

    def adopt(self, tuple state not None):
        """Take over what another allowance has exported. Raises ValueError, TypeError: it is none."""
        tats, taken, fanout, over = state
        for each in (*tats, *over):
            if not 0 <= each < 1 << 62:
                raise ValueError(f"no time of a bucket: {each}")
        for kind in range(KINDS):
            self.tats[kind] = tats[kind]
            self.taken[kind] = taken[kind]
        self.fanout = fanout
        self.standing.over_until_ns, self.standing.again_ns = over

    @property
    def total(self):
        """The messages, bytes and deliveries that were taken here since it was made."""
        return self.taken[0], self.taken[1], self.taken[2]

    @property
    def full(self):
        """Whether it is as good as a new one: nothing is owed here."""
        cdef int64_t now_ns = self.tariff.clock()
        cdef int kind
        for kind in range(KINDS):
            if self.tats[kind] > now_ns:
                return False
        return True
