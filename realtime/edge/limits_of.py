"""What the settings allow, in the core's words."""

from __future__ import annotations

from typing import Final

from realtime.core.limits import Limits
from realtime.settings import Settings

# The hub's clock stands still during a batch and the core's does not. By so much the core's count is wider,
# or it would refuse a message whose frame the hub has just let in, and its sender would pay twice.
RATE_SLACK_S: Final = 0.1
# How long whoever leaves one worker may be on the way to another: see Limits.presence_move_s.
PRESENCE_MOVE_S: Final = 0.6


def limits_of(settings: Settings) -> Limits:
    """Return the limits that the core keeps; those of frames are the hub's."""
    return Limits(
        connections_per_user=settings.max_connections_per_user,
        connection_limit_policy=settings.connection_limit_policy,
        rooms_per_connection=settings.max_rooms_per_connection,
        messages_per_frame=settings.messages_per_frame,
        messages_per_second=settings.messages_per_second,
        messages_burst=settings.messages_burst + 1 + settings.messages_per_second * RATE_SLACK_S,
        messages_per_second_per_user=settings.messages_per_second_per_user,
        messages_per_second_per_tenant=settings.messages_per_second_per_tenant,
        bytes_per_second_per_user=settings.bytes_per_second_per_user,
        bytes_per_second_per_tenant=settings.bytes_per_second_per_tenant,
        deliveries_per_second_per_user=settings.deliveries_per_second_per_user,
        deliveries_per_second_per_tenant=settings.deliveries_per_second_per_tenant,
        rate_burst_s=settings.rate_burst_s,
        connections_per_tenant=settings.connections_per_tenant,
        rooms_per_tenant=settings.rooms_per_tenant,
        storage_bytes_per_tenant=settings.storage_bytes_per_tenant,
        tenant_metrics=settings.tenant_metrics,
        content_bytes=settings.max_message_bytes,
        errors_per_second=settings.errors_per_second,
        errors_burst=settings.errors_burst,
        answer_bytes=settings.answer_bytes,
        presence_members=settings.presence_members,
        presence_grace_s=settings.presence_grace_s,
        presence_move_s=PRESENCE_MOVE_S if settings.redis_url else 0.0,
    )
