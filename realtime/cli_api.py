"""`realtime api`: attachments over HTTP, beside the workers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from realtime.loading import Loaded


def add_command(
    commands: Any,
    add_knobs: Callable[[argparse.ArgumentParser], None],
    read: Callable[[argparse.Namespace], Loaded],
) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "api",
        help="take and give attachments over HTTP, beside the workers",
        description="Take and give attachments by the URLs that workers sign, on `host` and `chat_api_port`, "
        "until SIGTERM. It needs the workers' chat_url_secret and the same chat_files_path or S3 bucket, and "
        "they need its address as chat_files_url. There may be several.",
    )
    add_knobs(parser)

    def run(parsed: argparse.Namespace) -> int:
        loaded = read(parsed)
        from realtime.edge.api import serve

        return serve(loaded)

    parser.set_defaults(run=run)
