"""The side of the tests: each runs as written, and a name of the answer's program is a call to the other process."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import socket
import sys
from typing import Any

COMMON = frozenset(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re "
    "statistics string typing".split()
)
"""Modules that tests name without importing them."""


class Unfair(BaseException):
    """The program is gone, or a test would let it be the judge of itself. No `except Exception` of a test catches it."""


class Remote:
    """Something of the program's that is no plain value: a function, an object, an iterator.

    Its methods can be called and its items read. It cannot be compared nor be true, for those would be the program's
    own words about itself.
    """

    __slots__ = ("_ask", "_number")

    def __init__(self, ask: Any, number: int):
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self._number, [name])

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._ask("call", self._number, list(args), keywords)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self._number, [key])

    def __len__(self) -> int:
        return _exact(int, self._ask("length", self._number))

    def __iter__(self) -> Any:
        return iter(_exact(list, self._ask("items", self._number)))

    def __next__(self) -> Any:
        return self._ask("next", self._number)

    def __str__(self) -> str:
        return _exact(str, self._ask("str", self._number))

    def __repr__(self) -> str:
        return _exact(str, self._ask("repr", self._number))

    def __setattr__(self, name: str, value: Any) -> None:
        raise Unfair(f"a test sets {name} of an object of the answer's")

    def _refuse(self, *_: Any) -> Any:
        raise Unfair("a test compares an object of the answer's own kind; compare plain values")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __contains__ = _refuse
    __hash__ = object.__hash__


def _exact(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise Unfair(f"the program gave a {type(value).__name__} where a {kind.__name__} belongs")
    return value


class Program:
    """The other process, asked one thing at a time."""

    def __init__(self, connection: socket.socket, wire: Any):
        self.connection, self.wire = connection, wire

    def ask(self, operation: str, target: int, args: Any = (), keywords: Any = None) -> Any:
        encode = self.wire.encode
        try:
            message = [operation, target, [encode(a, self._handle) for a in args],
                       {key: encode(a, self._handle) for key, a in (keywords or {}).items()}]  # fmt: skip
            self.wire.send(self.connection, message)
        except (self.wire.NotPlain, OSError) as error:
            raise Unfair(f"the call cannot be made: {error}") from None
        value, after = self.reply()
        for old, new in zip(args, after, strict=False):
            _take_over(old, new)
        return value

    def reply(self) -> tuple[Any, list[Any]]:
        """What came of the last request; an exception of the program's is raised here, by the name of its built-in kind."""
        try:
            given = self.wire.receive(self.connection)
            if given[0] == "ok":
                return self._decode(given[1]), [None if a is None else self._decode(a) for a in given[2]]
            kind, said = getattr(builtins, str(given[1]), None), str(given[2])
        except (self.wire.Malformed, TypeError, IndexError, KeyError) as error:
            raise Unfair(f"the program gave no answer: {error}") from None
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise Unfair(f"the program raised {given[1]}: {said}")
        raise _built_in(kind, said)

    def _decode(self, given: Any) -> Any:
        return self.wire.decode(given, lambda number: Remote(self.ask, number))

    def _handle(self, value: Any) -> Any:
        if type(value) is Remote:
            return ["handle", object.__getattribute__(value, "_number")]
        raise self.wire.NotPlain(f"a {type(value).__name__} cannot be handed to the program")


def _built_in(kind: type[Exception], said: str) -> Exception:
    try:
        return kind(said)
    except TypeError:  # UnicodeDecodeError and the like want more than a message
        return ValueError(said)


def _take_over(old: Any, new: Any) -> None:
    """Make an argument what the program left of it."""
    if type(old) is not type(new):
        return
    if type(old) in (list, bytearray):
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)


def play(job: Any, connection: socket.socket, out: int, wire: Any, load: Any, write: Any) -> None:
    """Run the tests of the job one after another; one line each."""

    def say(**line: Any) -> None:
        os.write(out, json.dumps(line).encode() + b"\n")

    try:
        if wire.receive(connection) != "ready":
            raise wire.Malformed("the program's side said something else")
    except wire.Malformed as error:
        say(failed=f"the program's side did not start: {error}")
        return
    say(ready=True)
    program = Program(connection, wire)
    try:
        program.reply()
    except BaseException as error:
        say(broken=f"the program cannot be loaded: {_said(error)}")
        return
    for i, text in enumerate(job["tests"]):
        try:
            load(f"test_{i}", write(f"test_{i}.py", text), **_names(text, job["entry"], program))
            say(test=i, ok=True)
        except BaseException as error:
            say(test=i, ok=False, why=_said(error)[:500])


def _names(text: str, entry: str, program: Program) -> dict[str, Any]:
    """What the test needs: the program's names. A built-in or a module of the standard library is never the program's."""
    found: dict[str, Any] = {}
    for name in {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}:
        if name != entry and (hasattr(builtins, name) or name in sys.stdlib_module_names or name.startswith("__")):
            if name in COMMON:
                found[name] = importlib.import_module(name)
            continue
        try:
            found[name] = program.ask("get", 0, [name])
        except AttributeError:
            pass  # the test's own, or missing: the test will tell
    return found


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
