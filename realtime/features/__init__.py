"""Features: one folder each, found by being there. A folder exports its `Feature` as `FEATURE`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from realtime.core.feature import Feature


def discover() -> list[Feature]:
    """Import every feature folder and return what they declare, by folder name.

    Raises:
        TypeError: a folder exports no `FEATURE`, or something else by that name.
    """
    return [_feature(name) for name in sorted(found.name for found in iter_modules(__path__) if found.ispkg)]


def _feature(folder: str) -> Feature:
    module = import_module(f"{__name__}.{folder}")
    feature = getattr(module, "FEATURE", None)
    if not isinstance(feature, Feature):
        raise TypeError(f"{module.__name__} exports no FEATURE: Feature")
    return feature
