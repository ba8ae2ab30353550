"""docs/security.md: every threat has a defence and a test that exists, and no attack is missing from it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HEAD = "| Threat | Defence | Test |"


class Row(NamedTuple):
    """One line of a table of threats."""

    threat: str
    defence: str
    tests: list[str]


def rows(page: str) -> Iterator[Row]:
    """The rows of all tables that begin with `HEAD`."""
    for block in re.findall(rf"^{re.escape(HEAD)}\n\|[- |]+\|\n((?:\|.*\n)+)", page + "\n", re.MULTILINE):
        for line in block.splitlines():
            threat, defence, tests = (cell.strip() for cell in line.strip("|").split("|"))
            yield Row(threat, defence, [test.strip(" `") for test in tests.split(",")])


def names_of_tests(path: Path) -> set[str]:
    """The names of the tests of a file, those in classes as Class::test."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}::{each.name}" for each in methods if each.name.startswith("test_")}
    return found


def missing(name: str) -> str:
    """What is wrong with `tests/file.py::test_name`; empty where there is such a test."""
    path, _, test = name.partition("::")
    if not re.fullmatch(r"tests/[\w/]+\.py", path) or not (ROOT / path).is_file():
        return f"{name}: there is no such file"
    return "" if test in names_of_tests(ROOT / path) else f"{name}: there is no such test"


ROWS = list(rows(PAGE))


def test_there_are_tables():
    assert len(ROWS) >= 30
    assert PAGE.count(HEAD) >= 5
    assert sum(line.startswith("|") and "tests/" in line for line in PAGE.splitlines()) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.threat[:40])
def test_each_threat_has_a_defence_and_a_test_that_exists(row: Row):
    assert row.threat
    assert row.defence
    assert row.tests
    assert [said for name in row.tests if (said := missing(name))] == []


def test_no_threat_stands_twice():
    threats = [row.threat for row in ROWS]
    assert len(threats) == len(set(threats))


def test_every_file_of_attacks_is_named():
    named = {test.partition("::")[0] for row in ROWS for test in row.tests}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert files - named == set()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests/attacks/test_attack_nothing.py::test_x", "no such file"),
        ("docs/security.md::test_x", "no such file"),
        ("tests/test_security_page.py::test_nothing", "no such test"),
        ("tests/test_security_page.py", "no such test"),
        ("tests/test_security_page.py::rows", "no such test"),
        ("tests/test_security_page.py::test_there_are_tables", ""),
    ],
)
def test_a_name_that_leads_nowhere_is_seen(name: str, said: str):
    assert said in missing(name)
    assert bool(missing(name)) == bool(said)


def test_a_row_is_read_as_it_stands():
    page = f"{HEAD}\n| --- | --- | --- |\n| a | b | `tests/x.py::test_y`, `tests/z.py::test_w` |\n"
    assert list(rows(page)) == [Row("a", "b", ["tests/x.py::test_y", "tests/z.py::test_w"])]
