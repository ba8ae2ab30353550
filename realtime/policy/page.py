"""The whole policy."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import field

from realtime.policy.access import Access
from realtime.policy.api import Api
from realtime.policy.chat import Chat
from realtime.policy.issuers import Issuer
from realtime.policy.network import Network
from realtime.policy.rooms import RoomRule
from realtime.policy.section import Section
from realtime.policy.tenants import Quotas


class Policy(Section, frozen=True, kw_only=True):
    """All sections. `Policy()` is what holds without a file."""

    access: Access = field(default_factory=Access)
    api: Api = field(default_factory=Api)
    chat: Chat = field(default_factory=Chat)
    issuers: tuple[Issuer, ...] = ()
    network: Network = field(default_factory=Network)
    rooms: tuple[RoomRule, ...] = ()
    tenants: Mapping[str, Quotas] = {}
