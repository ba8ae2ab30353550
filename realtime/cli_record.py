"""`realtime record`: record a connection while it lives, show a recording, play one again."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from realtime.cli_control import AddConfig, Read, runner
from realtime.errors import BadMessage
from realtime.files import read_bounded
from realtime.ids import DEFAULT_TENANT, parse_tenant
from realtime.protocol.recording import BadRecording, Frame, Head, read

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider

LOOK_EVERY_S: Final = 0.5
URL: Final = "ws://127.0.0.1:8000/ws"
FILE_BYTES_MAX: Final = 64 << 20
TOKEN_TTL_S: Final = 3600
_ARROWS: Final = {"in": "->", "out": "<-"}


def add_command(commands: Any, add_config: AddConfig, read_settings: Read) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "record",
        help="record a connection while it lives; show a recording, or play it again",
        description="Record the last frames of a connection, on whichever worker it is, for SECONDS, until "
        "it ends or until Ctrl-C, and print the recording. Tokens and the contents of encrypted rooms are "
        "not in it. With --show or --play: of a recording in a file.",
        epilog="--play signs a token for the recorded user with REALTIME_JWT_SECRET, where that is set.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "connection", metavar="CONNECTION", nargs="?", help="its connection_id, as `connected` says it"
    )
    which.add_argument("--show", type=Path, metavar="FILE", help="print a recording for people")
    which.add_argument(
        "--play", type=Path, metavar="FILE", help="play the client's side against --url, compare the answers"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="record for so long; 0 takes what is recorded already (default: 30)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there (default: stdout)")
    parser.add_argument(
        "--tenant", default=DEFAULT_TENANT, help=f"tenant of the connection (default: {DEFAULT_TENANT})"
    )
    parser.add_argument("--url", default=URL, help=f"with --play: where (default: {URL})")
    parser.add_argument("--fast", action="store_true", help="with --play: not at its own pace")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with --play: a file with a token")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="with --play: wait so long for an answer (default: 10)",
    )
    add_config(parser)
    record = runner(_record, read_settings)

    def run(parsed: argparse.Namespace) -> int:
        if parsed.show is not None:
            return _show(*_read(parsed.show))
        if parsed.play is not None:
            return _play(parsed, *_read(parsed.play))
        return record(parsed)

    parser.set_defaults(run=run)


# ---------------------------------------------------------------- record


async def _record(publisher: Outsider, parsed: argparse.Namespace) -> None:
    from realtime.edge.recorder import RecordAsked, ask_to_record

    tenant = parse_tenant(parsed.tenant)

    def asked(what: str, seconds: float = 0.0) -> RecordAsked:
        return RecordAsked(tenant, parsed.connection, what, seconds)

    if parsed.seconds > 0:
        await ask_to_record(publisher, asked("begin", parsed.seconds))
        print(f"recording {parsed.connection} for {parsed.seconds:g} s", file=sys.stderr, flush=True)
        enough = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, enough.set)
        until = time.monotonic() + parsed.seconds
        while (left_s := until - time.monotonic()) > 0 and not enough.is_set():
            if not (await ask_to_record(publisher, asked("look"))).recording:
                break  # it has ended
            try:
                await asyncio.wait_for(enough.wait(), min(left_s, LOOK_EVERY_S))
            except TimeoutError:
                continue
    said = await ask_to_record(publisher, asked("take"))
    _put(zlib.decompress(said.file), parsed.out)


def _put(file: bytes, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(file.decode())
        sys.stdout.flush()
        return
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(file)
    except OSError as error:
        raise BadMessage(f"{path}: {error.strerror}") from error


def _read(path: Path) -> tuple[Head, list[Frame]]:
    try:
        return read(read_bounded(path, FILE_BYTES_MAX))
    except OSError as error:
        raise BadRecording(f"{path}: {error.strerror}") from error


# ---------------------------------------------------------------- show


def _show(head: Head, frames: list[Frame]) -> int:
    whose = " ".join(
        filter(None, (head.user, f"of {head.tenant}", f"from {head.address}" * bool(head.address)))
    )
    code = f", close code {head.code}" if head.code else ""
    by = f" by the {head.closed_by}" if head.closed_by else ""
    print(_printable(f"{head.connection}: {whose}; {head.encoding}; {head.why}{code}{by}"))
    print(f"{len(frames)} frames of {head.frames}, {head.lost} earlier ones are lost")
    for each in frames:
        print(_printable(_line(head, each)))
    return 0


def _line(head: Head, frame: Frame) -> str:
    at_ns = head.unix_ns + frame.at_ns - head.monotonic_ns
    at = datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%H:%M:%S")
    marks = ("" if frame.fin else " more") + (" compressed" if frame.compressed else "")
    said = frame.text if frame.text is not None else frame.data.hex() if frame.data is not None else ""
    parts = (
        f"{at}.{at_ns % 10**9 // 1000:06d} {_ARROWS[frame.way]} {frame.op}{marks} {frame.size} B",
        str(frame.code or ""),
        f"<{frame.left_out}>" if frame.left_out else "",
        said or " ".join((*frame.types, *frame.rooms)),
    )
    return "  ".join(filter(None, parts))


def _printable(text: str) -> str:
    """A line that does to a terminal what a line does, whoever has said it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


# ---------------------------------------------------------------- play


def _play(parsed: argparse.Namespace, head: Head, frames: list[Frame]) -> int:
    from realtime.edge.rerun import Rerun

    async def play() -> Any:
        return await Rerun(head, frames, _token(parsed, head), parsed.patience).play(
            parsed.url, fast=parsed.fast
        )

    report = asyncio.run(play())
    for why, count in sorted(report.left_out.items()):
        print(f"not sent: {count} frames that are not in the recording ({why})")
    pushed = ", ".join(f"{kind} {count}" for kind, count in sorted(report.now.types.items()))
    print(_printable(f"sent {report.sent} frames, and was sent: {pushed or 'nothing'}"))
    found = report.differences()
    for each in found:
        print(_printable(each))
    print("different" if found else "the same answers in kind")
    return 1 if found else 0


def _token(parsed: argparse.Namespace, head: Head) -> str | None:
    from realtime.client.replay import sign

    if parsed.token_file is not None:
        try:
            return str(parsed.token_file.read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise BadMessage(f"{parsed.token_file}: it cannot be read: {error}") from error
    secret = os.environ.get("REALTIME_JWT_SECRET", "")
    if not secret:
        return None
    claims = {"sub": head.user, "tenant": head.tenant, "exp": int(time.time()) + TOKEN_TTL_S}
    return sign(claims, secret)
