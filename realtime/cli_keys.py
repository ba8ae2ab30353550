"""`realtime keys`: the keys that seal what is kept, and renewing them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from realtime.errors import Unavailable
from realtime.ids import TenantId, parse_tenant
from realtime.settings import Settings

Read = Callable[[argparse.Namespace], Settings]
AddConfig = Callable[[argparse.ArgumentParser], None]

_VERBS: Final = {
    "status": (
        "list master keys and data keys, and whether they open",
        "List the master keys that are configured or missing, and every tenant's data keys: which one seals, "
        "and whether it opens. The exit code is 1 where one does not.",
    ),
    "rewrap": (
        "wrap the data keys with the first master key",
        "Wrap all data keys with the master key that comes first now, in its newest version. Then the other "
        "master keys are not needed any more. Rows are not touched.",
    ),
    "rotate": (
        "make new data keys, and seal all rows with them",
        "Make a new data key for every tenant, then do as `keys seal`. Servers that run use it within 30 s.",
    ),
    "seal": (
        "seal rows with the newest data keys",
        "Seal what is sealed with older data keys, and what was kept in rooms before they were encrypted. It "
        "may be ended at any time: the next run goes on. Rows that cannot be read stay as they are.",
    ),
}


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add it to the parser's `commands`."""
    keys = commands.add_parser(
        "keys",
        help="show and renew the keys of what is sealed at rest",
        description="Show and renew the keys that seal encrypted rooms at rest. Beside running servers, but "
        "for an SQLite file: its server has to be stopped.",
    )
    verbs = keys.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb, (summary, description) in _VERBS.items():
        parser = verbs.add_parser(verb, help=summary, description=description)
        if verb != "status":
            parser.add_argument(
                "--tenant", action="append", metavar="TENANT", help="of this tenant alone (default: of all)"
            )
        add_config(parser)
        parser.set_defaults(run=partial(_run, verb, read))


def _run(verb: str, read: Read, parsed: argparse.Namespace) -> int:
    settings = read(parsed)
    from realtime.edge import keys

    say = partial(print, flush=True)
    if verb == "status":
        return asyncio.run(keys.show(settings, say))
    tenants: set[TenantId] | None = {parse_tenant(name) for name in parsed.tenant} if parsed.tenant else None
    run = {"rewrap": keys.rewrap, "rotate": keys.rotate, "seal": keys.seal}[verb]
    try:
        return asyncio.run(run(settings, say, tenants))
    except Unavailable as error:
        say(f"not finished, and safe to run again: {error.message}")
        return 1
