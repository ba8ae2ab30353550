"""`realtime policy check` and `policy explain`: one line each, and exit codes for scripts."""

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


def explain(path: Path, capsys, **asked: str) -> tuple[int, str]:
    given = {"user": "alice", "action": "join", "room": "chat:lobby", **asked}
    code = main(["policy", "explain", str(path), *(f"--{name}={value}" for name, value in given.items())])
    return code, capsys.readouterr().out.strip()


def test_a_policy_that_will_do(path: Path, capsys):
    assert main(["policy", "check", str(path), "--strict"]) == 0
    assert capsys.readouterr().out == f"ok: {path}: default deny, 3 rules, 0 warnings\n"


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
        ("[access", "not TOML"),
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


def test_the_settings_name_the_file_where_the_command_does_not(path: Path, capsys, monkeypatch):
    monkeypatch.setenv("REALTIME_POLICY_PATH", str(path))
    assert main(["policy", "check"]) == 0
    monkeypatch.delenv("REALTIME_POLICY_PATH")
    assert main(["policy", "check"]) == 1
    assert "REALTIME_POLICY_PATH" in capsys.readouterr().err
