"""From a TOML file to a policy, or to one line that says what is wrong with it."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from realtime.errors import BadMessage, SettingsError
from realtime.files import read_bounded
from realtime.ids import parse_tenant
from realtime.policy.page import Policy
from realtime.policy.section import Section

POLICY_BYTES_MAX = 16 * 1024 * 1024


def load_policy(path: Path) -> Policy:
    """Return the policy in the TOML file `path`.

    Raises:
        SettingsError: it cannot be read, is no TOML, or says what no policy says; it names the place.
    """
    try:
        raw = read_bounded(path, POLICY_BYTES_MAX)
    except OSError as error:
        raise SettingsError(f"policy file {path}: {error.strerror}") from error
    try:
        table = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"policy file {path} is not TOML: {error}") from error
    return read_policy(table, str(path))


def read_policy(table: Mapping[str, Any], source: str) -> Policy:
    """Return the policy that `table` says; `source` is where it stood.

    Raises:
        SettingsError: as `load_policy`.
    """
    try:
        policy = msgspec.convert(table, Policy)
    except msgspec.ValidationError as error:
        raise SettingsError(f"policy file {source}: {_explained(str(error))}") from error
    for place, section in _sections(policy, ""):
        try:
            section.check()
        except ValueError as error:
            raise SettingsError(f"policy file {source}: {place or 'policy'}: {error}") from error
    for tenant in policy.tenants:
        if tenant != "*":
            try:
                parse_tenant(tenant)
            except BadMessage as error:
                raise SettingsError(f"policy file {source}: tenants: {error.message}") from error
    return policy


def _sections(value: object, place: str) -> Iterator[tuple[str, Section]]:
    """Every section in `value`, with its place in the file, innermost first."""
    if isinstance(value, Section):
        for name in value.__struct_fields__:
            yield from _sections(getattr(value, name), f"{place}.{name}" if place else name)
        yield place, value
    elif isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from _sections(each, f"{place}[{index}]")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _sections(each, f'{place}."{key}"')


def _explained(said: str) -> str:
    """Name the nearest known key where msgspec says that one is unknown."""
    found = re.search(r"unknown field `([^`]*)`", said)
    if not found:
        return said
    known = {name for section in _kinds(Section) for name in section.__struct_fields__}
    near = difflib.get_close_matches(found[1], known, n=1)
    return f"{said}; did you mean {near[0]}?" if near else said


def _kinds(section: type[Section]) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from _kinds(each)
