"""What `make install-check` reads out of docs/install.md, and when something else was printed than shown."""

import pytest

from tests.monitoring.scripts import load
from tests.tree import ROOT

check = load("install_check")


def test_the_page_has_commands_before_and_after_the_boot_and_what_they_print():
    before, after = check.steps((ROOT / "docs/install.md").read_text(encoding="utf-8"))
    assert {step.section for step in before} == {"1. Packages"}
    assert before[-1].shown == ("realtime 0.1.0",)
    numbers = [int(step.section.partition(".")[0]) for step in after]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(2, numbers[-1] + 1))
    (reload, *_) = (step.section for step in after if step.command.startswith("systemctl reload"))
    assert reload == "7. Upgrades"


@pytest.mark.parametrize(
    ("shown", "printed", "as_shown"),
    [
        ("active", "active\n", True),
        ("active", "inactive\n", False),
        ("active", "active\nactive\n", False),
        ("active\nactive", "active\n", False),
        ("active", "", False),
        ("realtime 0.1.0", "realtime 2.13.0\n", True),
        ("realtime 0.1.0", "realtime unknown\n", False),
        (
            "since Sat 2026-11-21 17:49:36 UTC; 195ms ago",
            "since Fri 2027-01-02 01:02:03 UTC; 1min 2s ago\n",
            True,
        ),
        ("since Sat; 195ms ago", "since Sat; a while ago\n", False),
        ("a\n…\nz", "a\nb\nc\nz\n", True),
        ("a\n…\nz", "a\nz\n", True),
        ("a\n…\nz", "a\nb\n", False),
        ("to … (of 3)", "to (any)thing (of 12)\n", True),
        ("all of them heard", "3 OF THEM NOT HEARD\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_numbers_and_times_may_differ_and_words_may_not(shown, printed, as_shown):
    assert check.is_as_shown(shown.splitlines(), printed) is as_shown


def test_nothing_but_an_earlier_run_is_ever_removed(tmp_path):
    own = tmp_path / "srv/precious"
    own.parent.mkdir()
    own.touch()
    with pytest.raises(SystemExit, match="no system of ours"):
        check.remove(tmp_path)
    assert own.exists()
    (tmp_path / check.MARK).touch()
    check.remove(tmp_path)
    assert not tmp_path.exists()
