"""Tests as data has them, read into scripts that the sandbox runs: what in them is a test, and what cannot be run at all.

A row whose tests could not pass whatever the answer is, is told here (`NoTests`): it is the row's fault, not the answer's.
Nothing of what is read runs in this process.
"""

from __future__ import annotations

import ast
import keyword
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from typing import Any


class NoTests(Exception):
    """What was given as tests cannot be read, has none, or asks for what is not there."""


@dataclass(frozen=True)
class Script:
    """A script that is run once, from top to bottom, as Python runs it.

    Attributes:
        marks: places of the statements that are each a test: one that fails does not end the script.
        calls: calls made at its end, each a test. Without marks and calls the whole script is one test.
    """

    text: str
    marks: Sequence[int] = ()
    calls: Sequence[str] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.marks) + len(self.calls))


def split_tests(tests: Any, entry: Any = "") -> list[Script]:
    """Tests as scripts, in order.

    Args:
        tests: statements, one test each, or one script: with functions `test_…`, with HumanEval's `check(candidate)`, with
            asserts at its top level, or with several of these.
        entry: the name that `check` is given.

    Raises:
        NoTests: it cannot be parsed, nothing in it is a test, or no program could pass it.
    """
    if type(entry) is not str or (entry and (not entry.isidentifier() or keyword.iskeyword(entry))):
        raise NoTests(f"entry is {str(entry)[:60]!r}, which is no name of a function")
    if isinstance(tests, str):
        return [_script(tests, entry)]
    if not isinstance(tests, Sequence) or not tests or not all(isinstance(test, str) for test in tests):
        raise NoTests("tests is neither a script nor a list of statements")
    return [_statement(test, entry) for test in tests]


def _statement(text: str, entry: str) -> Script:
    """One of a list: all of it is one test, unless it is a script with functions to be called."""
    body = _parsed(text).body
    if _uncalled(body, entry):
        return _script(text, entry)
    if not any(isinstance(part, ast.Assert | ast.Call) for node in body for part in _run_at_once(node)):
        raise NoTests(f"no test in {text[:60]!r}")
    return Script(text)


def _script(text: str, entry: str) -> Script:
    body = _parsed(text).body
    marks = [i for i, node in enumerate(body) if _is_test(node)]
    calls = _uncalled(body, entry)
    if not marks and not calls:
        raise NoTests("no test in the script: no function test_…, no check(candidate) with an entry, no assert")
    return Script(text, marks, calls)


def _uncalled(body: Sequence[ast.stmt], entry: str) -> list[str]:
    """Calls of the test functions that the script defines and does not call itself."""
    called = {
        node.func.id for top in body if not _is_main_guard(top) for node in ast.walk(top)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }  # fmt: skip
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    calls = []
    for name, function in functions.items():
        if name.startswith("test_") and name not in called:
            if _wants(function):
                raise NoTests(f"{name}({', '.join(_wants(function))}) wants what only pytest could give it")
            calls.append(f"{name}()")
    if "check" in functions and "check" not in called:
        if entry:
            calls.append(f"check({entry})")
        elif len(_wants(functions["check"])) == 1:
            raise NoTests("check(candidate) is there, and the row has no entry to give it")
    return calls


def _wants(function: ast.FunctionDef) -> list[str]:
    """Parameters without a default."""
    args = function.args
    places = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    named = [arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None]
    return places[: len(places) - len(args.defaults)] + named


def _is_test(node: ast.stmt) -> bool:
    """An assert, a loop or a block with one in it, or a call of a test function."""
    if _is_main_guard(node):
        return False
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
        return node.value.func.id == "check" or node.value.func.id.startswith("test_")
    return any(isinstance(part, ast.Assert) for part in _run_at_once(node))


def _run_at_once(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and its parts, without the bodies of functions and classes."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield found
            waiting += ast.iter_child_nodes(found)


def _is_main_guard(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which is false here."""
    return isinstance(node, ast.If) and any(getattr(part, "id", "") == "__name__" for part in ast.walk(node.test))


def _parsed(text: str) -> ast.Module:
    try:
        tree = ast.parse(text)
        InspectLoader.source_to_code(tree, "tests")  # a tree too deep for it is told here
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoTests(f"a test cannot be parsed: {type(error).__name__}: {error}") from None
    for node in ast.walk(tree):
        for module in _imported(node):
            if module not in sys.stdlib_module_names:
                raise NoTests(
                    f"a test imports {module or 'from beside itself'}; only the standard library is there, and the "
                    "program's names, without an import"
                )
        if isinstance(node, ast.ClassDef) and any(_is_test_function(part) for part in node.body):
            raise NoTests(f"tests in a class ({node.name}) are not read; functions test_… are")
        if isinstance(node, ast.AsyncFunctionDef) and _is_test_function(node):
            raise NoTests(f"{node.name} is async; only plain functions test_… are read")
    return tree


def _is_test_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")


def _imported(node: ast.AST) -> list[str]:
    """Top modules that a statement imports; "" for one that is relative."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["" if node.level else (node.module or "").partition(".")[0]]
    return []
