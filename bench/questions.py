"""The questions that compare servers by rate: what each asks, of whom, and what is wanted.

Rates are deliveries, replies or handshakes per second of the server's own CPU time, which is steady where
rates per second of the clock depend on the generator too. W is messages under way a publisher.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from bench import report
from bench.compare import Cell, Failures, Goal, Options, finish, interleave, print_cells
from bench.generator import WSLOAD_SOURCE, Load
from bench.servers import PUBLISH_ACK, Server, Traffic

OURS = ("baseline", "hub", "realtime")
RIVALS = ("realtime", "socketify", "picows")


def room(members: int, window: int, rooms: int = 1) -> Load:
    """One publisher a room, `members` in each."""
    return Load("fanout", members * rooms, rooms=rooms, publishers=rooms, window=window, warmup_s=1.0)


def _label(load: Load) -> str:
    pace = f"{load.rate:g}/s" if load.rate else f"W={load.window}"
    return f"{load.rooms}x{load.connections // load.rooms} {pace}"


def fanout(options: Options) -> int:
    """How many deliveries does a second of server CPU buy, beside plain C on the same path?"""
    goals = (Goal("hub", "baseline", at_least=0.90), Goal("realtime", "baseline"))
    loads = [room(1000, 1), room(1000, 16), room(1000, 64), room(10_000, 4), room(10, 4, rooms=100)]
    cells = [Cell(_label(load), load, OURS, goals) for load in loads]
    return _ask("fanout", fanout.__doc__, cells, options)


def uncoalesced(options: Options) -> int:
    """What does a delivery cost that is a send of its own?"""
    # With one message under way nothing can be merged: one delivery is one send in every server.
    one = room(1000, 1)
    goals = (Goal("hub", "baseline-uncoalesced", at_least=0.85), Goal("realtime", "baseline-uncoalesced"))
    cells = [Cell(_label(one), one, ("baseline-uncoalesced", "hub", "realtime"), goals)]
    # What merging is worth: the same load on the same program, with and without.
    many = room(1000, 16)
    worth = (Goal("baseline", "baseline-uncoalesced"),)
    cells.append(Cell(_label(many), many, ("baseline-uncoalesced", "baseline"), worth))
    return _ask("uncoalesced", uncoalesced.__doc__, cells, options)


def _echo_load() -> Load:
    return Load("echo", 100, window=16, nap_us=50, warmup_s=1.0)


def echo(options: Options) -> int:
    """How many native echoes does a second of server CPU buy?"""
    goals = (Goal("realtime", "picows", at_least=8.0), Goal("realtime", "baseline"))
    servers = ("baseline", "hub", "realtime", "socketify", "picows")
    cell = Cell("echo 100 W=16", _echo_load(), servers, goals, traffic=lambda server: server.echo)
    return _ask("echo", echo.__doc__, [cell], options)


def ack(options: Options) -> int:
    """How many JSON requests are answered a second of server CPU, beside a bare echo in picows?"""
    goals = (Goal("realtime", "picows", at_least=4.0),)

    def requests(kind: str) -> Cell:
        def traffic(server: Server) -> Traffic:
            if server.requests is None:
                return server.echo
            return PUBLISH_ACK if kind == "publish" else server.requests

        return Cell(f"{kind} 100 W=16", _echo_load(), ("realtime", "picows"), goals, traffic=traffic)

    return _ask("ack", ack.__doc__, [requests("ping"), requests("publish")], options)


def handshakes(options: Options) -> int:
    """How many connections does a second of server CPU open?"""
    load = Load("idle", 10_000, warmup_s=0.0, concurrency=64)
    goals = (Goal("realtime", "socketify", at_least=1.2), Goal("realtime", "baseline"))
    servers = ("baseline", "hub", *RIVALS)
    cell = Cell("10,000 handshakes", load, servers, goals, traffic=lambda server: server.idle or server.room)
    brief = replace(options, seconds=0.3)
    failures = Failures()
    results = interleave([cell], brief, failures)
    print(report.headline("handshakes", handshakes.__doc__ or "", short=options.short))
    print_cells([cell], results, brief, figure=lambda run: run.handshakes_per_cpu_s)
    print_cells([cell], results, brief, figure=lambda run: run.handshakes_per_s, unit="per s of the clock")
    return finish("handshakes", results, failures, options)


def latency(options: Options) -> int:
    """How long until a member has the message, at 100,000 deliveries a second? (from when it was due)"""
    load = Load("fanout", 1000, rate=100.0, warmup_s=1.0)
    goals = tuple(Goal("realtime", peer, at_most=1.1) for peer in ("socketify", "picows"))
    cell = Cell(_label(load), load, ("baseline", *RIVALS), goals)
    failures = Failures()
    results = interleave([cell], options, failures)
    print(report.headline("latency", latency.__doc__ or "", short=options.short))
    print_cells([cell], results, options, figure=lambda run: run.p99_ms, unit="ms p99")
    print_cells([cell], results, options, figure=lambda run: run.p50_ms, unit="ms p50")
    return finish("latency", results, failures, options)


def peers(options: Options) -> int:
    """What do users get who pick another library? (our real protocol with everything on)"""
    if WSLOAD_SOURCE.exists():
        options = replace(options, independent=True)
    else:
        print(
            "!!! wsload.c is not beside this checkout: our own generator judges alone",
            file=sys.stderr,
        )
    wanted = [
        # load, times socketify, times picows, deliveries per server CPU second
        (room(1000, 1), 1.2, 1.0, 0.0),
        (room(1000, 16), 1.25, 0.0, 0.0),
        (room(1000, 64), 0.0, 0.0, 10e6),
        (room(10_000, 4), 1.15, 0.0, 0.0),
        (room(10, 4, rooms=100), 1.35, 0.0, 0.0),
    ]
    cells = [
        Cell(
            _label(load),
            load,
            RIVALS,
            (Goal("realtime", "socketify", at_least=socketify), Goal("realtime", "picows", at_least=picows)),
            floor,
        )
        for load, socketify, picows, floor in wanted
    ]
    return _ask("peers", peers.__doc__, cells, options)


def _ask(question: str, words: str | None, cells: list[Cell], options: Options) -> int:
    failures = Failures()
    results = interleave(cells, options, failures)
    print(report.headline(question, words or "", short=options.short))
    print_cells(cells, results, options)
    return finish(question, results, failures, options)
