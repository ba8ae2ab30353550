"""Write the reference pages of docs/ from the code, so that they cannot drift: `make docs`.

Settings come from `realtime.settings`, commands from the argument parsers, messages from the message types,
metrics from their declarations. tests/test_docs.py fails while a page says anything else than this makes.
What cannot be generated (README.md, docs/architecture.md, docs/protocol.md) is written by hand.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's code, whatever else is installed

from realtime import (  # noqa: E402
    cli,
    errors,
    settings,
    settings_chat,
    settings_cluster,
    settings_files,
    settings_observing,
    settings_security,
)
from realtime.backends.http_post import notify  # noqa: E402
from realtime.client import replay  # noqa: E402
from realtime.core.clock import SystemClock  # noqa: E402
from realtime.core.feature import Feature  # noqa: E402
from realtime.edge import telemetry  # noqa: E402
from realtime.edge.autoscale import Autoscaler  # noqa: E402
from realtime.edge.fleet import Fleet  # noqa: E402
from realtime.edge.load import Load  # noqa: E402
from realtime.features import discover  # noqa: E402
from realtime.native.histogram import BOUNDS_S  # noqa: E402
from realtime.protocol import closing, messages  # noqa: E402

NOTE = "<!-- Written by `make docs` from {source}. Change it there. -->\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; cells may hold anything but line breaks."""
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# ---------------------------------------------------------------- settings


def settings_page() -> str:
    return "".join(
        [
            NOTE.format(source="realtime/settings.py"),
            SETTINGS_INTRODUCTION,
            *(f"\n## {title}\n\n{settings_table(names)}" for title, names in settings_sections().items()),
            "\n`REALTIME_CONFIG` names the TOML file, where `--config` does not.\n",
        ]
    )


SETTINGS_INTRODUCTION = """\
# Settings

Every knob of the server, with its unit, bounds and default. A value comes from, later over earlier:

1. the default,
2. the TOML file that `--config` or `REALTIME_CONFIG` names, by the setting's name: `port = 9000`,
3. the environment, by the variable: `REALTIME_PORT=9000`,
4. the command line, by the name with dashes: `--port 9000`. Secrets have no option, because every user of a
   machine can read its command lines.

What is unknown or out of bounds stops the start with a line that names the setting, where the value came from
and what would do. `realtime settings` prints this table with the values in force and their sources, secrets
masked; `realtime check` says whether the server would start with them. Lists are separated by commas in
variables and options, and are arrays in TOML.
"""


def settings_sections() -> dict[str, list[str]]:
    """The groups that the comments of `Settings` make: names of the knobs by title, in order."""
    sections: dict[str, list[str]] = {}
    pages = (
        settings.Settings,
        settings_observing.ObservingSettings,
        settings_chat.ChatSettings,
        settings_files.FilesSettings,
        settings_security.SecuritySettings,
        settings_cluster.ClusterSettings,
    )
    for line in "".join(map(inspect.getsource, pages)).splitlines():
        if title := re.fullmatch(r"    # -- (.+?) -*", line):
            names = sections.setdefault(title[1][:1].upper() + title[1][1:], [])
        elif field := re.match(r"    (\w+): Annotated\[", line):
            names.append(field[1])
    sections = {title: names for title, names in sections.items() if names}
    assert sum(map(len, sections.values())) == len(settings.KNOBS), "a knob stands in no section"
    return sections


def settings_table(names: list[str]) -> str:
    knobs = [settings.KNOBS[name] for name in names]
    return table(
        ("Setting", "Variable", "Unit", "Bounds", "Default", "Meaning"),
        [
            (
                code(knob.name),
                code(knob.variable),
                knob.unit,
                knob.bounds,
                code(settings.as_text(knob.default)) or "empty",
                knob.description,
            )
            for knob in knobs
        ],
    )


# ---------------------------------------------------------------- commands


def cli_page() -> str:
    parser = cli._parser()  # the parsers are no part of the package's interface, and here is their one reader
    commands = "".join(command_section(name, command, 2) for name, command in subcommands(parser))
    return "".join(
        [
            NOTE.format(source="the parsers in realtime/cli.py"),
            "# The `realtime` command\n\n",
            parser.description or "",
            "\n\nA user's mistake ends in one line on stderr: exit code 2 for a wrong command line, 1 for "
            "what failed after that.\n\n```\n",
            (parser.epilog or "").rstrip(),
            "\n```\n",
            commands,
        ]
    )


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def command_section(name: str, command: argparse.ArgumentParser, depth: int) -> str:
    """A command's heading, what it does, its arguments and options, and its own commands."""
    if name == "replay":  # cli.py hands its options on unparsed
        command = replay._parser()
    plain = [action for action in command._actions if action.dest != "help" and not is_commands(action)]
    knobs = [action for action in plain if action.dest in settings.KNOBS]
    own = [action for action in plain if action not in knobs]
    text = [f"\n{'#' * depth} `realtime {name}`\n\n{command.description or ''}\n"]
    if own:
        rows = [(code(option_text(action)), help_text(action)) for action in own]
        text.append("\n" + table(("Option", "Meaning"), rows))
    if knobs:
        text.append(
            "\nBesides, every [setting](settings.md) that is no secret is an option: `--port 9000`.\n"
        )
    for inner, parser in subcommands(command):
        text.append(command_section(f"{name} {inner}", parser, depth + 1))
    return "".join(text)


def is_commands(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def help_text(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "realtime"}


def option_text(action: argparse.Action) -> str:
    value = ""
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    if action.nargs != 0:
        value = " " + str(action.metavar or "|".join(map(str, action.choices or [action.dest.upper()])))
    return ", ".join(action.option_strings) + value


# ---------------------------------------------------------------- messages


def messages_page() -> str:
    return "".join(
        [
            NOTE.format(
                source="realtime/protocol/messages.py, the features' messages and realtime/errors.py"
            ),
            MESSAGES_INTRODUCTION,
            "\n## What a client sends\n",
            *map(message_text, messages.FROM_CLIENT.values()),
            "\n## What the server sends\n",
            *map(message_text, messages.FROM_SERVER.values()),
            "\n## Events, by feature\n",
            *map(feature_text, discover()),
            "\n## Errors\n\n",
            ERRORS_INTRODUCTION,
            errors_table(),
            "\n## Close codes\n\n",
            CLOSE_CODES_INTRODUCTION,
            close_codes_table(),
        ]
    )


MESSAGES_INTRODUCTION = """\
# Messages, errors and close codes

What each type of message holds. The envelope around them, and how they play together, is
[the protocol](protocol.md). Keys that are not listed are ignored.
"""
ERRORS_INTRODUCTION = """\
What an `error` may be. Names are stable; match on them, never on the message.

"""
CLOSE_CODES_INTRODUCTION = """\
Codes below 4000 are RFC 6455's. 4000 to 4499 ask the client to come back with back-off, 4500 to 4999 not to.

"""
# Errors of whoever starts a server; no client ever sees them.
LOCAL_ERRORS = {errors.SettingsError, errors.StartupError}
ROOMS = {"named": " Names a room.", "of what failed": " Names the room of what failed.", "none": ""}


def paragraph(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def message_text(message: messages.MessageType) -> str:
    answer = f" Answered by `{message.answer}`." if message.answer else ""
    text = f"\n### `{message.name}`\n\n{message.description}{ROOMS[message.room]}{answer}\n"
    if message.content is None:
        return text
    if own_docstring(message.content):
        text += f"\n{own_docstring(message.content)}\n"
    rows = list(field_rows(msgspec.inspect.type_info(message.content), ""))
    return text + "\n" + table(("Content", "Type", "Required", "Meaning"), rows)


def own_docstring(content: type) -> str:
    return " ".join((vars(content).get("__doc__") or "").split())


def field_rows(info: msgspec.inspect.StructType, prefix: str) -> Iterator[tuple[str, ...]]:
    """A content's fields; those of an object in it with a dotted name."""
    for field in info.fields:
        kind, meaning = plain(field.type)
        name = prefix + field.encode_name
        inner = isinstance(kind, msgspec.inspect.StructType)
        if inner and not meaning:
            meaning = own_docstring(kind.cls)
        yield (code(name), type_text(kind), "yes" if field.required else "no", meaning)
        if inner:
            yield from field_rows(kind, f"{name}.")


def plain(info: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, str]:
    """A type without its metadata and its None, and the outermost description it had."""
    if isinstance(info, msgspec.inspect.Metadata):
        inner, meaning = plain(info.type)
        return inner, (info.extra_json_schema or {}).get("description", meaning)
    if isinstance(info, msgspec.inspect.UnionType):
        others = [each for each in info.types if not isinstance(each, msgspec.inspect.NoneType)]
        if len(others) == 1:
            return plain(others[0])
    return info, ""


def type_text(info: msgspec.inspect.Type) -> str:
    info, _ = plain(info)
    match info:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            word = "integer" if isinstance(info, msgspec.inspect.IntType) else "number"
            if info.gt is not None:
                return f"{word} above {info.gt:g}"
            if info.ge is not None and info.le is not None:
                return f"{word}, {info.ge} to {info.le}"
            return word if info.ge is None else f"{word}, {info.ge:g} or more"
        case msgspec.inspect.StrType():
            return "text" if info.max_length is None else f"text, at most {info.max_length} characters"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.EnumType():
            return f"one of {', '.join(str(member.value) for member in info.cls)}"
        case msgspec.inspect.StructType() | msgspec.inspect.DictType():
            return "object"
        case msgspec.inspect.ListType():
            return f"list of {type_text(info.item_type)}"
    raise TypeError(f"docs.py has no words for {info}")


def feature_text(feature: Feature) -> str:
    module = import_module(f"realtime.features.{feature.name}")
    text = [f"\n### {feature.name}\n\n{paragraph(module)}\n"]
    kinds = [
        (
            code(f"{kind.name}:…"),
            "yes" if kind.durable else "no",
            "by setting" if kind.history_messages is None else str(kind.history_messages),
            "nothing" if kind.may_join is None else paragraph(kind.may_join),
            "yes" if kind.presence else "no",
        )
        for kind in feature.kinds
    ]
    if kinds:
        text.append("\n" + table(("Rooms", "Durable", "History", "Joining needs", "Presence"), kinds))
    alike: dict[tuple[str, ...], list[str]] = {}
    for message in feature.messages:
        content = "any JSON" if message.content is None else paragraph(message.content)
        kept = "no: ephemeral" if message.ephemeral else "yes"
        kinds_named = ", ".join(map(code, sorted(message.kinds)))
        alike.setdefault((kinds_named, content, kept), []).append(message.name)
    if alike:
        rows = [(" ".join(map(code, names)), *rest) for rest, names in alike.items()]
        text.append("\n" + table(("Types", "To rooms of kind", "Content", "Ordered and kept"), rows))
    keys = [(code(key), code(f"{kind}:…")) for key, kind in feature.room_keys.items()]
    if keys:
        text.append("\nWhere the envelope has no `room`, the content's first of these keys names it:\n")
        text.append("\n" + table(("Key", "Room"), keys))
    return "".join(text)


def errors_table() -> str:
    found = [error for error in vars(errors).values() if inspect.isclass(error)]
    wired = [
        error for error in found if issubclass(error, errors.RealtimeError) and error not in LOCAL_ERRORS
    ]
    rows = [
        (
            code(error.code),
            str(error.number),
            "yes" if error.retryable else "no",
            str(int(error.close_code)),
            paragraph(error),
        )
        for error in sorted(wired, key=lambda error: (error.number, error.code))
        if error is not errors.RealtimeError
    ]
    return table(("Name", "Code", "Temporary", "Closes with, where it ends a connection", "Meaning"), rows)


def close_codes_table() -> str:
    rows = [
        (str(int(each)), each.name.lower().replace("_", " "), "yes" if closing.may_reconnect(each) else "no")
        for each in errors.CloseCode
    ]
    return table(("Code", "Why", "Reconnect"), rows)


# ---------------------------------------------------------------- metrics


def metrics_page() -> str:
    hub = dict.fromkeys((*telemetry.HUB_COUNTERS, *telemetry.HUB_GAUGES), 0)
    core = dict.fromkeys((*telemetry.CORE_COUNTERS, *telemetry.CORE_GAUGES), 0)
    core |= dict.fromkeys((*telemetry.BACKEND_HELP, *telemetry.GUARD_HELP, *telemetry.CLUSTER_HELP), 0)
    core |= dict.fromkeys(telemetry.RECORDER_HELP, 0)
    core |= dict.fromkeys((*telemetry.TLS_HELP, *telemetry.HANDOVER_HELP, *telemetry.features_help()), 0)
    core |= dict.fromkeys((*telemetry.MOVING_HELP, *telemetry.TRACING_HELP), 0)
    declared = telemetry.worker_metrics(
        hub,
        core,
        refusals={},
        arrivals={},
        offences={},
        node="",
        version="",
        http=0,
        errors={},
        closes={},
        leaving={},
        timings=dict.fromkeys(telemetry.TIMINGS, ([0] * (len(BOUNDS_S) + 1), 0.0)),
        load=Load({}),
        tenants={"": {}},
    )
    fleet = Fleet(1, dict, clock=float)
    autoscaler = Autoscaler(settings.Settings(), SystemClock(), notify, who="", workers=int)
    declared = (*declared, *autoscaler.metrics(), *fleet.own())
    rows = [(code(metric.name), metric.type, metric.help) for metric in declared]
    note = NOTE.format(source="realtime/edge/telemetry.py")
    return note + METRICS_INTRODUCTION + table(("Metric", "Type", "Meaning"), rows)


METRICS_INTRODUCTION = """\
# Metrics

`GET /metrics` on the server's own port answers in Prometheus' text format 0.0.4. Counting costs plain integer
additions; nothing is formatted until somebody asks. Samples of a cluster's worker are labelled `node` and
`worker`; those of `realtime_tenant_…` are there for the tenants that `tenant_metrics` names. A supervisor
answers for all its workers on `metrics_port`: counters and histograms added up, over restarts too, gauges
beside one another by `worker` (its number there), and `realtime_worker_up` of each. Beside it,
`GET /health` says that the process is alive, and `GET /ready` whether it may take traffic: 503 from the first
moment of a drain on.

"""


# ---------------------------------------------------------------- all pages

PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/cli.md": cli_page,
    "docs/messages.md": messages_page,
    "docs/metrics.md": metrics_page,
}


def main() -> int:
    """Write every page that differs, and say which."""
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
