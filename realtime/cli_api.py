"""`realtime api`: the REST API and attachments; and `api-key` makes its keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from realtime.loading import Loaded


def add_command(
    commands: Any,
    add_knobs: Callable[[argparse.ArgumentParser], None],
    read: Callable[[argparse.Namespace], Loaded],
) -> None:
    """Add them to the parser's `commands`."""
    parser = commands.add_parser(
        "api",
        help="serve the REST API, the dashboard and attachments, beside the workers",
        description="Serve the REST API, its reference and the dashboard on `host` and `chat_api_port`, "
        "until SIGTERM; it reaches the workers through `redis_url`, or one on this machine by control_path. "
        "With the workers' chat_url_secret, and the same chat_files_path or S3 bucket, it takes and gives "
        "attachments too, and they need its address as chat_files_url. There may be several. SIGHUP reads "
        "the policy anew.",
    )
    add_knobs(parser)

    def run(parsed: argparse.Namespace) -> int:
        loaded = read(parsed)
        from realtime.edge.api import serve

        return serve(loaded)

    parser.set_defaults(run=run)
    _add_key(commands)


def _add_key(commands: Any) -> None:
    parser = commands.add_parser(
        "api-key",
        help="make a key for the REST API",
        description="Make a key for the REST API: print it, once, and on stderr what the policy file needs "
        "to know of it. The policy has its hash alone; `realtime api` takes it after a SIGHUP.",
    )
    parser.add_argument("--name", required=True, help="what it is called in the audit log")
    parser.add_argument(
        "--powers",
        default=["admin:*"],
        type=_names,
        metavar="A,B",
        help="what it may do, such as admin:publish,admin:presence (default: admin:*)",
    )
    parser.add_argument(
        "--tenants",
        default=["default"],
        type=_names,
        metavar="A,B",
        help="tenants that it acts in; '*' for all (default: default)",
    )
    parser.add_argument(
        "--rooms", default=["*"], type=_names, metavar="A,B", help="rooms that it may touch (default: all)"
    )
    parser.set_defaults(run=_make_key)


def _make_key(parsed: argparse.Namespace) -> int:
    from realtime.edge.rest.callers import new_key, stanza

    key, hash = new_key(parsed.name)
    told = stanza(parsed.name, hash, parsed.powers, parsed.tenants, parsed.rooms)
    print(key, flush=True)
    print(f"# in the policy file (policy_path):\n{told}", file=sys.stderr)
    return 0


def _names(text: str) -> list[str]:
    return [name for each in text.split(",") if (name := each.strip())]
