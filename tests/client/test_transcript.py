"""Reading a chat log, and planning who joins, speaks and leaves."""

from collections import Counter
from pathlib import Path

import pytest

from realtime.client.transcript import Action, BadTranscript, Line, plan, read

SAMPLE = Path(__file__).parent.parent / "data" / "irc" / "ubuntu_irc_sample.tsv"
HEADER = "day\thhmm\tkind\tnick\ttext\n"


def said(text: str, nick: str = "al") -> Line:
    return Line(0, "msg", nick, text)


def joined(nick: str) -> Line:
    return Line(0, "sys", nick, f"{nick} has joined", entering=nick)


def parted(nick: str) -> Line:
    return Line(0, "sys", nick, f"{nick} has left", leaving=nick)


def steps(*lines: Line, connections: int = 4) -> list[tuple[Action, int, str | None]]:
    (day,) = plan({"d": list(lines)}, connections)
    return [(action, connection, line.text if line else None) for action, connection, line in day.steps]


@pytest.mark.parametrize(
    ("text", "nick", "entering", "leaving"),
    [
        ("sly [~sly@host81.btcentralplus.com]  has joined #ubuntu", "sly", "sly", None),
        ("|muelli| [n=x@y]  has joined #UBUNTU", "|muelli|", "|muelli|", None),
        ('greg [n=greg@z]  has left #ubuntu ["Leaving"]', "greg", None, "greg"),
        ("greg [n=greg@z]  has quit [Read error]", "greg", None, "greg"),
        ("recon is now known as reconnect", "recon", "reconnect", "recon"),
        ("Matt| scrolls up", "Matt|", None, None),
        ("bob says he has joined the army", "bob", None, None),
        ("mode/#ubuntu [+o Seveas]  by ChanServ", "mode/#ubuntu", None, None),
    ],
)
def test_a_line_of_the_server_is_read_as_who_comes_and_goes(tmp_path, text, nick, entering, leaving):
    file = tmp_path / "log.tsv"
    file.write_text(f"{HEADER}2004-11-15\t12:18\tsys\t\t{text}\n", encoding="utf-8")
    assert read(file) == {"2004-11-15": [Line(738, "sys", nick, text, entering, leaving)]}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no rows"),
        (HEADER, "no rows"),
        (f"{HEADER}2004-11-15\t12:18\tmsg\tal\n", "log.tsv:2: 4 columns, not 5"),
        (f"{HEADER}2004-11-15\tnoon\tmsg\tal\thi\n", "log.tsv:2: time 'noon' is not hh:mm"),
        (f"{HEADER}2004-11-15\t12:18\tmsg\tal\thi\n2004-11-15\t12:18\tx\tal\thi\n", "log.tsv:3: kind 'x'"),
    ],
)
def test_a_file_that_is_no_transcript_is_refused_with_its_line(tmp_path, content, complaint):
    file = tmp_path / "log.tsv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadTranscript, match=complaint):
        read(file)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    file = tmp_path / "log.tsv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadTranscript, match=r"log\.tsv: (not UTF-8|No such file)"):
        read(file)


def test_who_speaks_without_a_join_was_there_from_the_start():
    first, second, *_ = steps(said("hi"), said("ho", "al"))
    assert first[0] is Action.JOIN
    assert second == (Action.SAY, first[1], "hi")


def test_a_visitor_joins_and_leaves_on_a_connection_of_its_own():
    found = steps(said("hi"), joined("bo"), said("hello", "bo"), parted("bo"), said("bye"))
    assert [step for step in found if step[1] == 0] == [
        (Action.JOIN, 0, None),
        (Action.SAY, 0, "bo has joined"),
        (Action.SAY, 0, "hello"),
        (Action.SAY, 0, "bo has left"),
        (Action.LEAVE, 0, None),
    ]


def test_visitors_that_overlap_do_not_share_the_visitors_connection():
    found = steps(joined("bo"), joined("cy"), parted("bo"), parted("cy"))
    alone = [text for _, connection, text in found if connection == 0 and text]
    assert alone == ["bo has joined", "bo has left"]


def test_a_new_nick_takes_the_place_of_the_old_one():
    rename = Line(0, "sys", "al", "al is now known as bo", entering="bo", leaving="al")
    found = steps(said("hi", "al"), rename, said("it is me", "bo"))
    texts = [text for _, _, text in found if text]
    assert texts == ["hi", "al is now known as bo", "it is me"]


def test_the_whole_plan_holds_together():
    days = read(SAMPLE)
    for day in plan(days, 20):
        present: set[int] = set()
        for action, connection, line in day.steps:
            assert 0 <= connection < day.connections
            if action is Action.JOIN:
                assert connection not in present
                present.add(connection)
            elif action is Action.LEAVE:
                present.remove(connection)
            else:
                assert connection in present, f"{line} is said by nobody in the room"
        spoken = [step.line for step in day.steps if step.line]
        assert spoken == days[day.date]  # each line once, in the log's order
    actions = Counter(step.action for day in plan(days, 20) for step in day.steps)
    assert actions[Action.LEAVE] >= 5


def test_connections_are_spread_over_the_days():
    days = read(SAMPLE)
    assert [day.connections for day in plan(days, 7)] == [4, 3]
    assert [day.connections for day in plan(days, 1)] == [2, 2]


def test_the_deliveries_are_the_lines_times_who_is_there():
    (day,) = plan({"d": [said("1"), joined("bo"), said("2"), parted("bo"), said("3")]}, 4)
    assert day.deliveries() == 1 + 2 + 2 + 2 + 1
