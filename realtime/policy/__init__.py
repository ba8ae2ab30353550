"""The policy: who may do what, in one TOML file that a running server reads again (SIGHUP).

Settings are fixed when a process starts and say how it runs; the policy says who may come in and what they
may do there. Each section has a module here, as plain data. What is unknown, out of bounds or contradicts
something else is an error that names the file, the place in it and what would do; then nothing of it holds.
"""

from realtime.policy.access import Access
from realtime.policy.api import Api, ApiKey
from realtime.policy.chat import Chat, ChatRule, Classifier
from realtime.policy.issuers import Issuer
from realtime.policy.loading import load_policy
from realtime.policy.network import Network
from realtime.policy.page import Policy
from realtime.policy.rooms import RoomRule
from realtime.policy.tenants import Quotas

__all__ = [
    "Access",
    "Api",
    "ApiKey",
    "Chat",
    "ChatRule",
    "Classifier",
    "Issuer",
    "Network",
    "Policy",
    "Quotas",
    "RoomRule",
    "load_policy",
]
