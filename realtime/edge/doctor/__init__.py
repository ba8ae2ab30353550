"""`realtime doctor`: everything that `check` looks at and all around it, and what to do about each finding.

No service has to run, nothing is written but a page to measure a disk with, and what cannot be reached is a
finding and no error. Each module looks at one thing; the checks of files and policies are those of `check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from realtime.edge import check
from realtime.edge.doctor.certificates import certificates
from realtime.edge.doctor.contradictions import contradictions
from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine, worst
from realtime.edge.doctor.host import Host
from realtime.edge.doctor.limits import limits
from realtime.edge.doctor.machine import machine
from realtime.edge.doctor.ports import ports
from realtime.edge.process import worker_count
from realtime.errors import StartupError
from realtime.loading import Loaded

__all__ = ["Diagnosis", "examine", "worst"]

# What to do about a finding of `check`, whose text says what is wrong. By what it begins with.
ADVICE: Final = {
    "compiled build": "`make build`, or install a wheel for this Python",
    "tokens": "correct the issuers in the policy file",
    "features": "reinstall realtime: a feature of it cannot be used",
    "policy": "correct the file; `realtime policy check` says more",
    "attachments": "correct chat_files_path or the S3 settings",
    "audit log": "let this user write there, or set audit_path",
    "encryption at rest": "put the master keys back: without them what is sealed cannot be read",
}


def examine(loaded: Loaded, host: Host | None = None) -> Iterator[Diagnosis]:
    """Look at one thing after another, and say how it stands."""
    settings, host = loaded.settings, host or Host()
    built = True
    for finding in check.installation(loaded):
        yield _diagnosis(finding)
        built = built and not (finding.text.startswith("compiled build") and not finding.ok)
    try:
        workers = worker_count(settings)
    except StartupError as error:
        yield fault("workers", error.message, "do as it says")
        workers = 1
    yield from contradictions(settings, workers)
    yield from limits(settings, host, workers)
    yield from machine(settings, host, workers)
    yield from ports(settings, workers)
    yield from certificates(settings)
    if built:
        # Not at the top: they stand on the compiled build, which may be what is missing.
        from realtime.edge.doctor.redis import redis
        from realtime.edge.doctor.store import store
        from realtime.features import discover

        yield from redis(settings, workers)
        yield from store(settings, discover(), host, workers)


def _diagnosis(finding: check.Finding) -> Diagnosis:
    area, colon, text = finding.text.partition(": ")
    if not colon or area not in {*ADVICE, "configuration"}:
        area, text = "configuration", finding.text  # a warning of the loading
    todo = ADVICE.get(area, "as it says")
    if not finding.ok:
        return fault(area, text, todo)
    return doubt(area, text, todo) if finding.warning else fine(area, text)
