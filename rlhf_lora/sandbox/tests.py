"""The side of the tests: each runs as written, and a name of the answer's program is a call to the other process."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import json
import os
import socket
import sys
from collections import deque
from importlib.machinery import SourceFileLoader
from typing import Any


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


def _like(base: type) -> type:
    """Values of a kind of the program's that adds to `base` but compares as it does: a named tuple, an `IntEnum`.

    They are compared, hashed and counted with here as plain ones; only what `base` does not have is asked of the program.
    """

    class Like(base):
        _remote: Remote

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_remote"), name)

        def __str__(self) -> str:
            return str(self._remote)

        def __repr__(self) -> str:
            return repr(self._remote)

    return Like


LIKE = {base: _like(base) for base in (int, float, str, tuple)}


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
        try:
            value, after = self.reply()
        except (StopIteration, StopAsyncIteration) as error:
            if operation != "next":  # in `all(map(f, …))` it would end the test's own loop, as if all were well
                raise Unfair(f"the program raised {type(error).__name__}") from None
            raise
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
        return self.wire.decode(given, self._stand_in)

    def _stand_in(self, number: int, plain: Any = None) -> Any:
        remote = Remote(self.ask, number)
        if plain is None:
            return remote
        value = LIKE[type(plain)](plain)
        value._remote = remote
        return value

    def _handle(self, value: Any) -> Any:
        if type(value) in LIKE.values():
            value = value._remote
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
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)
    elif type(old) is deque:
        old.clear()
        old.extend(new)


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
    first = 0
    for number, script in enumerate(job["tests"]):
        first = _run(number, script, first, job["entry"], program, say, load, write)


def _run(number: int, script: Any, first: int, entry: str, program: Program, say: Any, load: Any, write: Any) -> int:
    """Run one script; its tests are numbered from `first`. Gives the number after its last."""
    marks, calls = script["marks"], script["calls"]
    after, told, ended = first + max(1, len(marks) + len(calls)), set(), "not reached"

    def tell(test: int, error: BaseException | None) -> bool:
        told.add(test)
        say(test=test, ok=True) if error is None else say(test=test, ok=False, why=_said(error)[:500])
        return True

    class Test:
        """`with __test__(3):` around a test: whatever is raised in there is its result, and the script goes on."""

        def __init__(self, test: int):
            self.test = test

        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
            return tell(self.test, error)

    try:
        name, tree = f"test_{number}", _marked(script, first)
        names = {**_names(tree, entry, program), "__test__": Test}
        path = write(f"{name}.py", script["text"])
        load(name, path, names, Marked(name, path, tree))
        if not marks and not calls:
            tell(first, None)
    except BaseException as error:
        ended = _said(error)[:500]
    for test in range(first, after):
        if test not in told:
            say(test=test, ok=False, why=ended)
    return after


class Marked(SourceFileLoader):
    """Loads a tree in the place of the text it came from."""

    def __init__(self, name: str, path: str, tree: ast.Module):
        super().__init__(name, path)
        self.tree = tree

    def source_to_code(self, data: Any, path: Any, **_: Any) -> Any:  # type: ignore[override]
        return super().source_to_code(self.tree, path)


def _marked(script: Any, first: int) -> ast.Module:
    """The script with each of its tests in a `with` of its own."""
    tree = ast.parse(script["text"])
    for test, place in enumerate(script["marks"], first):
        (frame,) = ast.parse(f"with __test__({test}): pass").body
        frame.body = [tree.body[place]]  # type: ignore[attr-defined]
        tree.body[place] = frame
    for test, call in enumerate(script["calls"], first + len(script["marks"])):
        tree.body += ast.parse(f"with __test__({test}): {call}").body
    return tree


def _names(tree: ast.Module, entry: str, program: Program) -> dict[str, Any]:
    """What the test needs: the program's names. A built-in, or a module of the standard library, is never the program's.

    A module is known by its use: `math.pi` means the module, `select([3, 1])` a function of the program's.
    """
    parts = list(ast.walk(tree))
    names = [node for node in parts if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in parts if isinstance(node, ast.arg)}
    dotted = {node.value.id for node in parts if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    found: dict[str, Any] = {}
    for name in {node.id for node in names} | {entry} - {""}:
        if name != entry and (hasattr(builtins, name) or name.startswith("__")):
            continue
        with contextlib.suppress(AttributeError, ImportError):  # the test's own, or missing: the test will tell
            if name != entry and name in sys.stdlib_module_names and name in dotted:
                if name not in own:
                    found[name] = importlib.import_module(name)
            else:
                found[name] = program.ask("get", 0, [name])
    return found


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
