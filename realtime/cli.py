"""The `realtime` command: serve, check, settings, migrate, dev-cluster, replay; others stand in `cli_*`.

A user's mistake ends in one line on stderr and no traceback: exit code 2 for a wrong command line, 1 for what
failed after that. What the commands do stands elsewhere; here are their options and what they print.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from realtime import (
    __version__,
    cli_api,
    cli_audit,
    cli_bench,
    cli_chat,
    cli_doctor,
    cli_failover,
    cli_keys,
    cli_penalties,
    cli_policy,
    cli_record,
    cli_shed,
    cli_token,
    cli_units,
    cli_upgrade,
    cli_user,
)
from realtime.cli_control import add_commands
from realtime.errors import RealtimeError, SettingsError
from realtime.loading import CONFIG_VARIABLE, Loaded, convert, load
from realtime.settings import KNOBS, Knob, as_text, describe

EXAMPLES = """\
examples:
  realtime serve                              open mode on http://127.0.0.1:8000/, with the demo page
  REALTIME_JWT_SECRET=... realtime serve --host 0.0.0.0 --port 80
  realtime check --config realtime.toml       would it start here? exit code 0 or 1
  realtime doctor                             limits, Redis, store, certificates: and what to do
  realtime settings --format markdown         every knob: variable, unit, bounds, default, current value
  realtime migrate --status                   which tables the store has, and which are due
  realtime token make --sub alice --ttl 3600  a token signed with REALTIME_JWT_SECRET
  realtime token check - <token.txt           would the server take it, and if not, why?
  realtime publish chat:lobby '{"text":"hello"}'  to the workers that share REDIS_URL
  realtime record n-1a2b-17 --seconds 60 --out strange.recording  the last frames of a connection
  realtime audit verify                       has anybody changed what is on record?
  realtime install-units --dry-run            what systemd would run on this host, one worker a core
  realtime bench ws://127.0.0.1:8000/ws --rate 5000  load on a server, and how it took it
  realtime dev-cluster                        a Redis Cluster on this machine, for development
"""
# Short names for what is typed often; every knob has its own option anyway.
_ALIASES = {"echo_path": ["--echo"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments[:1] == ["replay"]:
            return _replay(arguments[1:])
        parsed = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except RealtimeError as error:
        return _fail(error.message)
    except ImportError as error:
        # realtime.native says how to build it; a missing dependency names itself.
        return _fail(str(error))
    except BrokenPipeError:  # `realtime settings | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print the usage with it, which is 60 options long."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="realtime",
        description="A real-time edge server: WebSocket clients in, rooms, ordered fan-out out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"realtime {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    cli_upgrade.add_command(commands, _add_knobs, lambda parsed: _load(parsed).settings)
    cli_api.add_command(commands, _add_knobs, _load)
    _add_check(commands)
    cli_doctor.add_command(commands, _add_knobs, _load)
    cli_bench.add_command(commands)
    _add_settings(commands)
    _add_migrate(commands)
    cli_token.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    _add_dev_cluster(commands)
    add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_penalties.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_record.add_command(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_shed.add_command(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_keys.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_audit.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_user.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_chat.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_policy.add_commands(commands, _add_config, lambda parsed: _load(parsed).settings)
    cli_failover.add_command(commands, _add_knobs, lambda parsed: _load(parsed).settings)
    cli_units.add_commands(commands)
    # Only for --help: main() hands replay's own options on unparsed.
    commands.add_parser("replay", help="play a recorded chat into a server, and check every delivery")
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="run the server", description="Run the server until SIGTERM.")
    _add_knobs(serve)
    serve.set_defaults(run=_serve)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="say whether the server would start here",
        description="Check the configuration, the compiled build, the store, the open files and the port.",
    )
    _add_knobs(check)
    check.set_defaults(run=_check)


def _add_settings(commands: Any) -> None:
    settings = commands.add_parser(
        "settings",
        help="list every setting",
        description="List every setting: variable, unit, bounds, default, current value and its source.",
    )
    settings.add_argument(
        "--format",
        choices=("table", "markdown", "json"),
        default="table",
        help="how to print it (default: table)",
    )
    _add_knobs(settings)
    settings.set_defaults(run=_settings)


def _add_migrate(commands: Any) -> None:
    migrate = commands.add_parser(
        "migrate",
        help="bring the store's tables up to date",
        description="Apply the migrations that the store has not had yet, and print each file. The server "
        "does the same when it starts; none may be running on the store meanwhile.",
    )
    migrate.add_argument(
        "--status", action="store_true", help="list every migration and whether it is applied; change nothing"
    )
    _add_knobs(migrate)
    migrate.set_defaults(run=_migrate)


def _add_dev_cluster(commands: Any) -> None:
    dev_cluster = commands.add_parser(
        "dev-cluster",
        help="run a Redis Cluster for development",
        description="Start a Redis Cluster of three masters and three replicas on loopback, print its "
        "REDIS_URL, and run until SIGTERM. Nothing is kept.",
    )
    dev_cluster.add_argument(
        "--port-base",
        type=_port_base,
        default=0,
        metavar="PORT",
        help="first of six ports (default: free ones)",
    )
    dev_cluster.add_argument(
        "--directory", type=Path, metavar="DIRECTORY", help="where its files go (default: a temporary one)"
    )
    dev_cluster.set_defaults(run=_dev_cluster)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"TOML file of settings (or {CONFIG_VARIABLE})"
    )


def _add_knobs(parser: argparse.ArgumentParser) -> None:
    """One option a knob. Secrets have none: a command line is read by everybody on the machine."""
    _add_config(parser)
    group = parser.add_argument_group(
        "settings", "Each may be given by its variable or in the TOML file too."
    )
    for knob in describe():
        if knob.secret:
            continue
        names = [knob.option, *_ALIASES.get(knob.name, [])]
        text = f"{knob.description} [{knob.variable}, default {_default(knob)}]".replace("%", "%%")
        if knob.flag:
            group.add_argument(
                *names, dest=knob.name, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            group.add_argument(
                *names, dest=knob.name, type=_option_type(knob), metavar=knob.unit.upper(), help=text
            )


def _option_type(knob: Knob) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return convert(knob, text, "value")
        except SettingsError as error:
            raise argparse.ArgumentTypeError(error.message) from error

    return checked


def _default(knob: Knob) -> str:
    return as_text(knob.default) or "empty"


def _load(parsed: argparse.Namespace) -> Loaded:
    options = {name: value for name in KNOBS if (value := getattr(parsed, name, None)) is not None}
    return load(config=parsed.config, environ=os.environ, options=options)


def _serve(parsed: argparse.Namespace) -> int:
    loaded = _load(parsed)
    from realtime.edge.server import serve

    return serve(loaded)


def _check(parsed: argparse.Namespace) -> int:
    loaded = _load(parsed)
    from realtime.edge.check import findings

    ok = True
    for finding in findings(loaded):
        print(f"{finding.mark:5} {finding.text}")
        ok = ok and finding.ok
    return 0 if ok else 1


def _settings(parsed: argparse.Namespace) -> int:
    loaded = _load(parsed)
    rows = [_row(knob, loaded) for knob in describe()]
    if parsed.format == "json":
        print(json.dumps(rows, indent=2))
    elif parsed.format == "markdown":
        _print_markdown(rows)
    else:
        _print_table(rows)
    return 0


def _migrate(parsed: argparse.Namespace) -> int:
    settings = _load(parsed).settings
    from realtime.edge import store
    from realtime.features import discover

    if parsed.status:
        for line in store.status(settings, discover()):
            print(line)
        return 0
    applied = store.migrate(settings, discover())
    for migration in applied:
        print(f"{migration.feature}: applied {migration.name}")
    if not applied:
        print("nothing to apply: the store is up to date")
    return 0


def _row(knob: Knob, loaded: Loaded) -> dict[str, str]:
    return {
        "name": knob.name,
        "variable": knob.variable,
        "unit": knob.unit,
        "bounds": knob.bounds,
        "default": _default(knob),
        "current": knob.show(loaded.settings) or "empty",
        "source": loaded.sources[knob.name],
        "description": knob.description,
    }


def _print_table(rows: list[dict[str, str]]) -> None:
    columns = ("name", "variable", "unit", "bounds", "default", "current", "source")
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    print("  ".join(column.upper().ljust(widths[column]) for column in columns).rstrip())
    for row in rows:
        print("  ".join(row[column].ljust(widths[column]) for column in columns).rstrip())
        print(f"    {row['description']}")


def _print_markdown(rows: list[dict[str, str]]) -> None:
    """The reference page: without current values, so that it is the same on every machine."""
    columns = ("name", "variable", "unit", "bounds", "default", "description")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = [f"`{row[column]}`" if column in ("name", "variable") else row[column] for column in columns]
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def _dev_cluster(parsed: argparse.Namespace) -> int:
    from realtime.edge import dev_cluster

    return dev_cluster.run(parsed.port_base, parsed.directory)


def _replay(arguments: list[str]) -> int:
    """Hand everything on: the replay is a client, with a command line of its own."""
    from realtime.client import replay

    return replay.main(arguments)


def _port_base(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= 55_530:  # the cluster bus has them 10,000 above
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 55530")
    return value


def _fail(message: str) -> int:
    print(f"realtime: {message}", file=sys.stderr)
    return 1
