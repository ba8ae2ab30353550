"""`realtime policy check` and `policy explain`: one line each, and exit codes for scripts."""

import json
import re
from pathlib import Path

import pytest

from realtime.cli import main

POLICY = """
[access]
default = "deny"
[[access.rules]]
actions = ["*"]
roles = ["staff"]
[[access.rules]]
actions = ["join", "history"]
rooms = ["chat:*", "session:{user}", "user:*"]
[[access.rules]]
effect = "deny"
actions = ["publish"]
rooms = ["chat:news*"]
tenants = ["acme"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def key(**changes) -> str:
    """A policy of two keys, of which the second has the changes."""
    good = {
        "hash": f"sha256:{'0' * 64}",
        "powers": ["admin:publish"],
        "tenants": ["acme"],
        "rooms": ["chat:order-*"],
    }
    tables = {"name": "shop", **good}, {"name": "desk", **good, **changes}
    lines = []
    for table in tables:
        lines += ["[[api.keys]]", *(f"{name} = {json.dumps(said)}" for name, said in table.items())]
    return "\n".join(lines)


def explain(path: Path, capsys, **asked: str) -> tuple[int, str]:
    given = {"user": "alice", "action": "join", "room": "chat:lobby", **asked}
    code = main(["policy", "explain", str(path), *(f"--{name}={value}" for name, value in given.items())])
    return code, capsys.readouterr().out.strip()


def test_a_policy_that_will_do(path: Path, capsys):
    assert main(["policy", "check", str(path), "--strict"]) == 0
    assert capsys.readouterr().out == f"ok: {path}: default deny, 3 rules, 0 warnings\n"


@pytest.mark.parametrize("powers", [["admin:*"], ["*"], ["admin:publish", "admin:pre*"]])
def test_keys_whose_powers_there_are_will_do(path: Path, capsys, powers: list[str]):
    path.write_text(key(powers=powers))
    assert main(["policy", "check", str(path), "--strict"]) == 0
    assert capsys.readouterr().out == f"ok: {path}: default allow, 0 rules, 2 API keys, 0 warnings\n"


def test_what_is_odd_is_a_warning_and_an_error_where_asked_for(path: Path, capsys):
    path.write_text(POLICY + '[[access.rules]]\nactions = ["publish:publish"]\nrooms = ["chat:*"]\n')
    assert main(["policy", "check", str(path)]) == 0
    assert "warning: access.rules[3] never matches" in capsys.readouterr().out
    assert main(["policy", "check", str(path), "--strict"]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[acces]", "did you mean access"),
        ('[[access.rules]]\nactions = ["pubish"]', r"access.rules\[0\]: no action is called 'pubish'"),
        ('[[access.rules]]\nactions = ["join"]\nrooms = ["chta:*"]', "no room kind 'chta'"),
        ('[[rooms]]\nrooms = ["chta:*"]\nprivate = true', r"rooms\[0\]: there is no room kind 'chta'"),
        ('[[rooms]]\nrooms = ["lobby"]\nprivate = true', r"rooms\[0\]: 'lobby' names no room"),
        ("[access", "not TOML"),
        (
            key(powers=["admin:publish", "admin:publihs"]),
            r"api.keys\[1\] \(desk\): no power is called 'admin:publihs'; did you mean admin:publish\?; "
            r"there are admin:publish, admin:notify, .*admin:tenants, and admin:\* for all",
        ),
        (key(powers=["everything"]), r"api.keys\[1\] \(desk\): no power is called 'everything'; there are"),
        (key(tenants=["acme", "no such"]), r"api.keys\[1\] \(desk\): tenants: "),
        (key(rooms=["chta:*"]), r"api.keys\[1\] \(desk\): there is no room kind 'chta'"),
    ],
)
def test_a_policy_that_will_not_do_is_one_line(path: Path, capsys, text: str, said: str):
    path.write_text(text)
    assert main(["policy", "check", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert re.search(said, printed.err)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"roles": "x, staff"}, 0, "allowed by access.rules[0]: allow * in * to staff"),
        ({}, 0, "allowed by access.rules[1]: allow join, history in chat:*, session:{user}, user:* to *"),
        ({"room": "session:alice"}, 0, "allowed by access.rules[1]"),
        ({"room": "session:bob"}, 3, "denied: no rule speaks of it, and the default is deny"),
        ({"room": "user:bob"}, 3, "denied all the same: rooms of kind 'user' do not let this user in"),
        (
            {"action": "publish:chat_message", "room": "chat:news", "roles": "staff", "tenant": "acme"},
            3,
            "denied by access.rules[2]: deny publish in chat:news* to *",
        ),
        ({"action": "publish:publish", "roles": "staff"}, 3, "rooms of kind 'chat' take no 'publish'"),
    ],
)
def test_it_says_which_rule_decides(path: Path, capsys, asked: dict, code: int, said: str):
    found, printed = explain(path, capsys, **asked)
    assert said in printed
    assert found == code


@pytest.mark.parametrize("asked", [{"action": "publishd"}, {"room": "lobby"}, {"user": " "}, {"tenant": "!"}])
def test_a_question_that_is_none_is_an_error(path: Path, capsys, asked: dict):
    assert explain(path, capsys, **asked)[0] == 1


def test_a_private_room_is_said_to_need_more(path: Path, capsys):
    path.write_text(POLICY + '[[rooms]]\nrooms = ["chat:lobby"]\nprivate = true\n')
    assert "a room token" in explain(path, capsys)[1]
    assert "a room token" not in explain(path, capsys, room="chat:other")[1]


def test_the_settings_name_the_file_where_the_command_does_not(path: Path, capsys, monkeypatch):
    monkeypatch.setenv("REALTIME_POLICY_PATH", str(path))
    assert main(["policy", "check"]) == 0
    monkeypatch.delenv("REALTIME_POLICY_PATH")
    assert main(["policy", "check"]) == 1
    assert "REALTIME_POLICY_PATH" in capsys.readouterr().err
