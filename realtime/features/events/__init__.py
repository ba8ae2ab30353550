"""Events: any of the application's events, published as they stand to the rooms they name."""

from realtime.core.feature import Feature
from realtime.features.events.messages import MESSAGES, ROOM_KEYS
from realtime.features.events.rules import KINDS

FEATURE = Feature(name="events", kinds=KINDS, messages=MESSAGES, room_keys=ROOM_KEYS)
