"""`[[issuers]]`: whose tokens are taken beside those that `jwt_secret` signs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.policy.section import Section


class Issuer(Section, frozen=True, kw_only=True):
    """One issuer of tokens."""

    issuer: Annotated[str, Meta(min_length=1, max_length=512, description="The claim `iss`, exactly.")]
