"""What the commands say of the chat's part of a policy."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

POLICY = '[[chat.rules]]\nname = "words"\nwords = ["grault"]\nthen = "mask"\n'


def realtime(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "realtime", *arguments]
    return subprocess.run(
        command, input=stdin, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def policy(tmp_path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def test_filters_say_which_rule_finds_what(policy):
    done = realtime("chat", "filters", "--policy", str(policy), stdin="hello\nsuch g-rault\n")
    assert done.returncode == 3, done
    assert done.stdout.splitlines() == [
        "words: mask: such *******: it has words that are not wanted here",
        "2 lines, 1 rules, 1 findings",
    ]
    assert realtime("chat", "filters", "--policy", str(policy), stdin="hello\n").returncode == 0


def test_a_policy_whose_rules_will_not_do_is_not_ok(policy):
    assert realtime("policy", "check", str(policy)).returncode == 0
    policy.write_text(POLICY + '[[chat.rules]]\nname = "files"\nword_files = ["/nowhere/at-all"]\n')
    done = realtime("policy", "check", str(policy))
    assert (done.returncode, "chat.rules[1].word_files" in done.stderr) == (1, True), done
