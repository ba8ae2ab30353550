"""The benchmark of the rules says what it measures, and finds out where its answers are wrong."""

import pytest

from bench import access


def test_it_prints_every_way_and_judges_the_slowest(monkeypatch, capsys):
    monkeypatch.setattr(access, "ROUNDS", 1)
    monkeypatch.setattr(access, "CHECKS", 200)
    monkeypatch.setattr("sys.argv", ["access", "--least", "1e12"])
    assert access.main() == 1
    printed = capsys.readouterr().out
    assert printed.count("checks/s   (1 rounds") == 12
    assert "are below 1,000,000,000,000" in printed


def test_wrong_answers_are_not_timed(monkeypatch):
    case = access.Case(20, 2)
    monkeypatch.setattr(case.rules, "allows", lambda user, action, room: True)
    with pytest.raises(AssertionError):
        case.agree()
