"""Habits that slip, held for the whole tree: sizes, docstrings, swallowed errors, sleeps, notes to oneself.

What a linter checks stands in pyproject.toml; here stand the project's own rules. Each check takes a source
as text and returns what is wrong with it, so that each can be shown to fail.
"""

import ast
import re
from collections.abc import Callable, Iterator

import pytest

from tests.tree import ROOT, files

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
CODE = {".py", ".pyi", ".pyx", ".pxd", ".lua", ".js", ".c", ".h", ".sh", ".html", ".css"}
TEXT = CODE | {".md", ".toml", ".in", ".yml", ".yaml", ".cfg", ".service", ".socket", ".target", ""}

# Put together here, so that this file may be read like any other.
NOTES_TO_ONESELF = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(work|ro" + r"ot|home/\w+)/")

Finding = tuple[int, str]  # line, what is wrong


# ---------------------------------------------------------------- the checks


def long_module(source: str) -> Iterator[Finding]:
    lines = source.count("\n")
    if lines > MODULE_LINES_MAX:
        yield lines, f"{lines} lines; a module has at most {MODULE_LINES_MAX}"


def long_python_functions(source: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _too_long(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)


_CYTHON_FUNCTION = re.compile(
    r"( *)(?:async +)?(?:def|cdef|cpdef)\b(?!.*\b(?:extern|class|struct|enum|union)\b)[^=]*?(\w+)\("
)


def long_cython_functions(source: str) -> Iterator[Finding]:
    """A function goes on while lines are indented deeper than its head; a head may take several lines."""
    lines = source.splitlines()
    for start, line in enumerate(lines):
        if head := _CYTHON_FUNCTION.match(line):
            yield from _too_long(head[2], start + 1, _block_lines(lines, start, len(head[1])))


def _block_lines(lines: list[str], start: int, indent: int) -> int:
    last = start
    in_head = True
    for number in range(start, len(lines)):
        text = lines[number].strip()
        deeper = len(lines[number]) - len(lines[number].lstrip()) > indent
        if number > start and text and not deeper and not (in_head and text.startswith(")")):
            break
        if text:
            last = number
        if in_head and text.partition("#")[0].rstrip().endswith(":"):
            in_head = False
    return last - start + 1


def _too_long(name: str, line: int, lines: int) -> Iterator[Finding]:
    if lines > FUNCTION_LINES_MAX:
        yield line, f"{name}() has {lines} lines; a function has at most {FUNCTION_LINES_MAX}"


def swallowed_errors(source: str) -> Iterator[Finding]:
    """`except:` alone, and `except Exception` that does nothing with what it caught."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield node.lineno, "bare except: name the errors"
        elif _catches_all(node.type) and all(map(_does_nothing, node.body)):
            yield node.lineno, f"except {ast.unparse(node.type)} swallows every error"


def _catches_all(caught: ast.expr) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in names)


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True
    return isinstance(statement, ast.Pass | ast.Continue | ast.Break) or (
        isinstance(statement, ast.Return)
        and (statement.value is None or isinstance(statement.value, ast.Constant))
    )


def swallowed_errors_in_cython(source: str) -> Iterator[Finding]:
    lines = source.splitlines()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("except:"):
            yield number, "bare except: name the errors"
        elif re.match(r"except \(?(Base)?Exception\b", text):
            after = text.partition(":")[2].strip() or next(
                (x.strip() for x in lines[number:] if x.strip()), ""
            )
            if after in ("pass", "return", "continue", "break"):
                yield number, "every error is swallowed"


def sleeps(source: str) -> Iterator[Finding]:
    """Waiting for a time instead of an event. `asyncio.sleep(0)` lets others run and waits for nothing."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="sleep"), args=[ast.Constant(value=0)]):
                pass
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr="sleep")) if module in (
                "time",
                "asyncio",
                "anyio",
                "trio",
            ):
                yield node.lineno, f"{module}.sleep in a test: wait for the event, or inject the clock"
            case ast.ImportFrom(module="time" | "asyncio" | "anyio", names=names):
                if any(alias.name == "sleep" for alias in names):
                    yield node.lineno, "sleep imported into a test"


def undocumented(source: str) -> Iterator[Finding]:
    """Modules, and public classes and functions at the top of one, say what they are.

    The contents of messages say it in the description of their message type and of each field.
    """
    tree = ast.parse(source)
    if tree.body and not ast.get_docstring(tree):
        yield 1, "the module has no docstring"
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
            and "Content" not in [ast.unparse(base) for base in getattr(node, "bases", ())]
        ):
            yield node.lineno, f"{node.name} has no docstring"


def undocumented_cython(source: str) -> Iterator[Finding]:
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not lines[0].startswith(('"""', 'r"""')):
        yield 1, "the module has no docstring"


def notes_to_oneself(source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), start=1):
        if found := NOTES_TO_ONESELF.search(line):
            yield number, f"{found[0]}: do it, or open an issue"


def machine_paths(source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), start=1):
        if found := MACHINE_PATHS.search(line):
            yield number, f"{found[0]} is a path of one machine"


# ---------------------------------------------------------------- the tree


def findings(check: Callable[[str], Iterator[Finding]], *suffixes: str, within: str = "") -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {wrong}"
        for path in files()
        if path.suffix in suffixes and str(path.relative_to(ROOT)).startswith(within)
        for line, wrong in check(path.read_text(encoding="utf-8"))
    ]


def assert_none(found: list[str]) -> None:
    assert not found, "\n".join(["untidy:", *found])


def test_no_module_is_longer_than_one_can_hold_in_the_head():
    assert_none(findings(long_module, *CODE))


def test_no_function_is_longer_than_a_screen():
    assert_none(findings(long_python_functions, ".py"))
    assert_none(findings(long_cython_functions, ".pyx", ".pxd"))


def test_no_error_is_swallowed():
    assert_none(findings(swallowed_errors, ".py"))
    assert_none(findings(swallowed_errors_in_cython, ".pyx", ".pxd"))


def test_no_test_sleeps():
    assert_none(findings(sleeps, ".py", within="tests/"))


def test_what_is_public_says_what_it_is():
    assert_none(findings(undocumented, ".py", within="realtime/"))
    assert_none(findings(undocumented_cython, ".pyx", ".pxd"))


def test_nothing_is_left_to_do_later():
    assert_none(findings(notes_to_oneself, *TEXT))


def test_no_file_names_a_place_on_one_machine():
    assert_none(findings(machine_paths, *TEXT))


# ---------------------------------------------------------------- the checks can fail

LONG = "\n".join(["def f():", *["    pass"] * FUNCTION_LINES_MAX])
LONG_CYTHON = "\n".join(
    [
        "cdef int f(",
        "    int a,",
        ") noexcept nogil:",
        *["    a += 1"] * (FUNCTION_LINES_MAX - 2),
        "",
        "cdef int b = 1",
    ]
)


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (long_module, "\n" * (MODULE_LINES_MAX + 1)),
        (long_python_functions, LONG),
        (long_cython_functions, LONG),
        (long_cython_functions, LONG_CYTHON),
        (swallowed_errors, "try:\n    f()\nexcept:\n    raise"),
        (swallowed_errors, "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed_errors, "try:\n    f()\nexcept (ValueError, BaseException):\n    return None"),
        (swallowed_errors_in_cython, "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed_errors_in_cython, "try:\n    f()\nexcept: raise"),
        (sleeps, "time.sleep(1)"),
        (sleeps, "async def f():\n    await asyncio.sleep(0.01)"),
        (sleeps, "from asyncio import sleep"),
        (undocumented, "x = 1"),
        (undocumented, '"""A module."""\ndef f(): pass'),
        (undocumented, '"""A module."""\nclass A: pass'),
        (undocumented_cython, "# cython: language_level=3\ncimport x"),
        (notes_to_oneself, "x = 1  # TO" + "DO later"),
        (machine_paths, 'open("/ro' + 'ot/x")'),
    ],
)
def test_what_is_untidy_is_found(check: Callable[[str], Iterator[Finding]], source: str):
    assert list(check(source))


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (long_module, "\n" * MODULE_LINES_MAX),
        (long_python_functions, LONG.removesuffix("\n    pass")),
        (long_cython_functions, LONG.removesuffix("\n    pass") + "\n\nx = 1\n" * 9),
        (long_cython_functions, "cdef struct A:\n" + "    int a\n" * 80),
        (swallowed_errors, "try:\n    f()\nexcept KeyError:\n    pass"),
        (swallowed_errors, "try:\n    f()\nexcept Exception:\n    log.exception('f failed')"),
        (sleeps, "async def f():\n    await asyncio.sleep(0)"),
        (undocumented, '"""A module."""\ndef _f(): pass'),
        (undocumented, ""),
        (undocumented_cython, '# cython: language_level=3\n"""A module."""'),
        (machine_paths, "https://example.com/work/in/progress and realtime/network/x"),
    ],
)
def test_what_is_tidy_passes(check: Callable[[str], Iterator[Finding]], source: str):
    assert not list(check(source))
