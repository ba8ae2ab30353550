"""The certificates that TLS would show: that they can be used, how long they hold, and their chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from realtime.backends.certificates import chain_trouble
from realtime.edge import tls
from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.errors import SettingsError
from realtime.settings import Settings

AREA: Final = "certificate"
DAY_S: Final = 86_400


def certificates(settings: Settings, now: float | None = None) -> Iterator[Diagnosis]:
    """Load them as the server would (which proves that the keys are theirs), and look at each."""
    if not settings.tls_certificate:
        yield fine(AREA, "none: TLS, if any, is ended in front")
        return
    try:
        shown = tls.load_certificates(settings)
    except SettingsError as error:
        yield fault(
            AREA, error.message, "put certificate and key in place as the message says; SIGHUP reads them"
        )
        return
    now = time.time() if now is None else now
    for path, leaf in zip(settings.tls_certificate, shown.leaves, strict=True):
        yield _dates(path, leaf.begins_at, leaf.ends_at, now)
        if not leaf.names:
            yield fault(
                AREA,
                f"{path} names no host (subjectAltName): no client takes it",
                "have it issued with DNS names",
            )
        if trouble := chain_trouble(Path(path).read_bytes()):
            yield doubt(
                AREA,
                f"{path}: {trouble}: clients that do not know the issuer by themselves refuse it",
                "put the whole chain into the file, leaf first (fullchain.pem), without the root",
            )


def _dates(path: str, begins_at: float, ends_at: float, now: float) -> Diagnosis:
    when, days = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends_at)), (ends_at - now) / DAY_S
    renew = "renew it (and look why nothing did), then send SIGHUP"
    if now >= ends_at:
        return fault(AREA, f"{path} expired {-days:.0f} days ago, at {when}", renew)
    if now < begins_at:
        return fault(AREA, f"{path} does not hold yet", "set the clock, or wait")
    if ends_at - now < tls.WARN_BEFORE_S:
        return doubt(AREA, f"{path} expires in {days:.1f} days, at {when}", renew)
    return fine(AREA, f"{path} holds for {days:.0f} days; its key fits")
