"""Log lines: text or JSON, with the connection and the room they speak of, never a secret, never a flood.

Each place in the code has a rate of its own, so that what goes wrong ten thousand times a second neither
fills a disk nor hides what else is said; how much was left out stands in the next line from there, or in one
of its own when there is none for a while.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from realtime.settings import KNOBS, Settings

FIELDS: Final = ("connection", "room", "user", "worker")
"""What a line may say of whom it speaks: `log.warning(…, extra={"connection": 7, "room": "chat:lobby"})`."""

CHARS_MAX: Final = 16_384
LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
SITES_MAX: Final = 10_000  # places in the code: more there are not
TOLD_LATE_S: Final = 10.0
SECRET_CHARS_MIN: Final = 6  # a shorter one would be found by chance in any line
HIDDEN: Final = "***"
# A token's three parts, what follows Bearer, and a password within a URL.
_SHAPES: Final = re.compile(
    r"(?P<jwt>\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*)|(?P<bearer>(?<=[Bb]earer )[\w.~+/=-]{8,})|(?P<url>(?<=://)[^/@\s]+(?=@))"
)


class Site(NamedTuple):
    """One place in the code that logs."""

    logger: str
    level: int
    path: str
    line: int


class Meter:
    """What one place may still say: full at `burst`, refilled at the rate."""

    __slots__ = ("left", "since", "unsaid", "words")

    def __init__(self, burst: int, now: float) -> None:
        self.left = float(burst)
        self.since = now
        self.unsaid = 0
        self.words = ""

    def may(self, now: float, per_second: float, burst: int) -> bool:
        """Whether it may say one more, which is then said."""
        self.left = min(burst, self.left + (now - self.since) * per_second)
        self.since = now
        if self.left < 1:
            self.unsaid += 1
            return False
        self.left -= 1
        return True


class LineCounts(NamedTuple):
    """Lines by their level: written, left out over the rate of their place, and not taken by the stream."""

    written: dict[str, int]
    left_out: dict[str, int]
    failed: dict[str, int]

    @classmethod
    def none(cls) -> LineCounts:
        """Of a process that has written nothing yet."""
        return cls(*(dict.fromkeys(LEVELS.values(), 0) for _ in cls._fields))


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream, each place in the code at most `per_second` lines after a `burst`. 0: all."""

    def __init__(
        self,
        stream: TextIO,
        per_second: float,
        burst: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream)
        self.counts = LineCounts.none()
        self._failed = False
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._meters: dict[Site, Meter] = {}
        self._owed: set[Site] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        if not self._per_second:
            self._write(record)
            return
        now = self._monotonic()
        site = Site(record.name, record.levelno, record.pathname, record.lineno)
        meter = self._meters.get(site)
        if meter is None:
            if len(self._meters) >= SITES_MAX:
                self._meters.clear()
            meter = self._meters[site] = Meter(self._burst, now)
        if not meter.may(now, self._per_second, self._burst):
            meter.words = str(record.msg)
            self.counts.left_out[level_of(record)] += 1
            self._owed.add(site)
        else:
            self._owed.discard(site)
            record.dropped, meter.unsaid = meter.unsaid, 0
            self._write(record)
        if self._owed:
            self._tell_owed(now - TOLD_LATE_S)

    def close(self) -> None:
        """Say what is still owed."""
        self.acquire()
        try:
            self._tell_owed(float("inf"))
        finally:
            self.release()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """See logging: the stream, or a line's own arguments, did not do."""
        self._failed = True
        super().handleError(record)

    def _tell_owed(self, since: float) -> None:
        """Say how much was left out of places that were silent from `since` on; a flood that goes on says it
        by itself.
        """
        for site in [each for each in self._owed if self._meters[each].since <= since]:
            self._owed.discard(site)
            meter = self._meters[site]
            record = logging.LogRecord(
                *(site.logger, site.level, site.path, site.line),
                "%d more lines like this were left out: %s",
                (meter.unsaid, meter.words),
                None,
            )
            record.dropped, meter.unsaid = meter.unsaid, 0
            self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        self._failed = False
        super().emit(record)
        counts = self.counts.failed if self._failed else self.counts.written
        counts[level_of(record)] += 1


def level_of(record: logging.LogRecord) -> str:
    """Return the name of a line's level, or of the one below where it has a number of its own."""
    return LEVELS[max((each for each in LEVELS if each <= record.levelno), default=logging.DEBUG)]


def line_counts() -> LineCounts:
    """Return how many lines this process has written and left out, as far as they go where `LimitedHandler`
    is installed.
    """
    found = (each for each in logging.getLogger().handlers if isinstance(each, LimitedHandler))
    handler = next(found, None)
    return LineCounts.none() if handler is None else handler.counts


class Redactor:
    """Takes secrets out of what is about to be written: those of the settings, and all that looks like one.

    No line has one in it by intention; this is for what an exception of somebody else's quotes.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = sorted({each for each in secrets if len(each) >= SECRET_CHARS_MIN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, found))) if found else None

    def __call__(self, text: str) -> str:
        """Return `text` without them."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _SHAPES.sub(HIDDEN, text)


def secrets_of(settings: Settings) -> list[str]:
    """Return the values of all settings that are secret."""
    found = []
    for knob in KNOBS.values():
        value = getattr(settings, knob.name)
        if knob.secret:
            found += [value] if isinstance(value, str) else list(map(str, value))
    return [part for each in found for part in _secret_in(each)]


def _secret_in(value: str) -> list[str]:
    """A value as a whole; of a URL only its passwords: the rest is what a line has to say."""
    if "://" not in value:
        return [value]
    parts = urlsplit(value)
    password = parts.netloc.rpartition("@")[0].partition(":")[2]
    asked = [text for name, text in parse_qsl(parts.query) if "password" in name]
    return [password, unquote(password), *asked]


class TextFormatter(logging.Formatter):
    """One line of text: time, level, node, logger, message, and the fields in brackets."""

    def __init__(self, node: str = "", redact: Callable[[str], str] = str) -> None:
        who = f"{node} " if node else ""
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {who}%(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime
        self._redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """See logging."""
        line = _bounded(super().formatMessage(record))
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        return f"{line} [{fields}]" if fields else line

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return self._redact(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's own name
        """See logging."""
        return _bounded(super().formatException(ei))  # type: ignore[arg-type]  # what logging hands over


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, node, logger, message, fields, traceback where there is one."""

    def __init__(self, node: str = "", redact: Callable[[str], str] = str) -> None:
        super().__init__()
        self._node = {"node": node} if node else {}
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "timestamp": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **self._node,
            "logger": record.name,
            "message": self._redact(_bounded(record.getMessage())),
        }
        for name, value in fields_of(record).items():
            fields[name] = self._redact(value) if isinstance(value, str) else value
        if record.exc_info:
            fields["traceback"] = self._redact(_bounded(self.formatException(record.exc_info)))
        return json.dumps(fields, ensure_ascii=False)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return whom a line speaks of, and how many before it were left out."""
    said = vars(record)
    found = {name: said[name] for name in FIELDS if said.get(name) is not None}
    if said.get("dropped"):
        found["dropped"] = said["dropped"]
    # Numbers stay numbers; whatever else it is becomes text that is bounded and has no line breaks.
    return {
        name: value if isinstance(value, int) else _bounded(str(value)).replace("\n", " ")
        for name, value in found.items()
    }


def _bounded(text: str) -> str:
    """Return `text`, its middle taken out where it is too long: the end of a traceback says what it was."""
    if len(text) <= CHARS_MAX:
        return text
    half = CHARS_MAX // 2
    return f"{text[:half]} … {len(text) - CHARS_MAX} characters left out … {text[-half:]}"
