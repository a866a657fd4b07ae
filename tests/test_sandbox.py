"""The sandbox: right programs pass, wrong ones fail, and those that cheat or do harm get nowhere.

Cheating is tried with and without a jail (`jail=False` is `reward.sandbox=none`); harm only with one.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from namespaces import namespaces_here

from rlhf_lora import sandbox
from rlhf_lora.sandbox import Limits, NoTests, SandboxError, split_tests

needs_namespace = pytest.mark.skipif(not namespaces_here(), reason="the system gives no namespaces")
pytestmark = pytest.mark.skipif(bool(sandbox.why_not()), reason=sandbox.why_not() or "-")
BOTH = [
    pytest.param(True, id="jail", marks=needs_namespace),
    pytest.param(False, id="no_jail", marks=pytest.mark.slow),
]
ADD = "def add(a, b):\n    return a + b\n"
QUICK = Limits(time_s=1.5)


def passed(code: str, *tests: str, jail: bool = True, entry: str = "", limits: Limits | None = None) -> list[bool]:
    return list(sandbox.run(code, tests, entry, limits, jail=jail).passed)


# --- honest programs --------------------------------------------------------------------------------------------------

HONEST = {
    "values of every plain kind": (
        "def same(x): return x",
        "assert same([1, (2.5, 'ö'), {3: {4}}, None, True, b'x', 1j, frozenset([5])]) == "
        "[1, (2.5, 'ö'), {3: {4}}, None, True, b'x', 1j, frozenset([5])]",
    ),
    "tuple is no list": ("def pair(): return (1, 2)", "assert pair() == (1, 2) and pair() != [1, 2]"),
    "keywords and defaults": ("def f(a, b=2): return a * b", "assert f(3) == 6 and f(3, b=3) == 9"),
    "objects with methods": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def __len__(self): return len(self.items)\n    def __str__(self): return f'{self.items}'",
        "s = Stack()\ns.push(1)\ns.push(2)\nassert len(s) == 2 and s.items == [1, 2] and str(s) == '[1, 2]'",
    ),
    "an object handed back": ("class A:\n    n = 3\ndef n_of(a): return a.n", "assert n_of(A()) == 3"),
    "generators": (
        "def count():\n    n = 0\n    while True:\n        n += 1\n        yield n\ndef two(): yield from (1, 2)",
        "c = count()\nassert next(c) == 1 and next(c) == 2 and list(two()) == [1, 2]",
    ),
    "sorting in place": ("def sort(x): x.sort()", "x = [3, 1]\nassert sort(x) is None\nassert x == [1, 3]"),
    "exceptions by their built-in name": (
        "class Mine(ValueError): pass\ndef f(x):\n    raise Mine('no')",
        "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no'",
    ),
    "modules that tests do not import": ("def half(x): return x / 2", "assert math.isclose(half(3), 1.5)"),
    "constants": ("LIMIT = 7", "assert LIMIT == 7"),
    "a program that prints": ("print('hello' * 100)\ndef one():\n    print('x')\n    return 1", "assert one() == 1"),
}


@pytest.mark.parametrize("jail", BOTH)
@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name, jail):
    code, test = HONEST[name]
    outcome = sandbox.run(code, [test], jail=jail)
    assert outcome.passed == [True], outcome.why


@pytest.mark.parametrize("jail", BOTH)
def test_each_test_counts_for_itself_and_says_why_it_failed(jail):
    outcome = sandbox.run(
        ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4, 'four'", "add(1)", "nothing()"], jail=jail
    )
    assert outcome.passed == [True, False, False, False]
    assert [why.partition(":")[0] for why in outcome.why] == ["", "AssertionError", "TypeError", "NameError"]
    assert "four" in outcome.why[1]


def test_program_that_does_not_load_fails_all_and_says_why():
    outcome = sandbox.run("def add(a, b:\n", ["assert add(1, 2) == 3"] * 2, jail=False)
    assert outcome.passed == [False, False]
    assert "SyntaxError" in outcome.why[0]


# --- programs that cheat ----------------------------------------------------------------------------------------------

EVERYTHING_EQUAL = (
    "class Yes:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return True\n"
    "    def __bool__(self): return True\n    def __hash__(self): return 3\n    def __lt__(self, o): return True\n"
    "    __gt__ = __le__ = __ge__ = __contains__ = __lt__\n    def __call__(self, *a): return self\n"
    "    def __sub__(self, o): return self\n    __rsub__ = __abs__ = __sub__\n"
)
FORGED = '{"test": 0, "ok": true}\\n'
CHEATS = {
    "returns an object that equals everything": EVERYTHING_EQUAL + "def add(a, b): return Yes()",
    "returns an int that equals everything": (
        "class Int(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return Int(0)"
    ),
    "is itself such an object": EVERYTHING_EQUAL + "add = Yes()",
    "hands out anything by name": EVERYTHING_EQUAL + "def __getattr__(name): return Yes()",
    "exits at load": "import sys\nsys.exit(0)",
    "exits hard at load": "import os\nos._exit(0)",
    "exits in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "exits hard in the call": "import os\ndef add(a, b): os._exit(0)",
    "kills its group": "import os, signal\ndef add(a, b): os.kill(os.getpid(), signal.SIGKILL)",
    "prints results": f"import os, sys\ndef add(a, b):\n    print('{FORGED}', flush=True)\n"
    f"    for fd in range(40):\n        try: os.write(fd, b'{FORGED}')\n        except OSError: pass\n    os._exit(0)",
    "patches builtins": (
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.abs = lambda x: 0\n"
        "builtins.isinstance = lambda *a: True\ndef add(a, b): return 0"
    ),
    "shadows builtins": "def abs(x): return 0\ndef len(x): return 3\ndef int(x): return 3\ndef add(a, b): return 0",
    "shadows the standard library": (
        "class math:\n    @staticmethod\n    def isclose(*a): return True\ndef add(a, b): return 0"
    ),
    "patches json and the socket": (
        'import json, socket\njson.dumps = lambda *a, **k: \'["ok", ["v", 3], []]\'\n'
        "socket.socket.sendall = lambda *a: None\ndef add(a, b): return 0"
    ),
    "patches the reader of asserts": (
        "import sys, ast\nfor m in list(sys.modules.values()):\n    try: m.run = m.play = m.load = lambda *a, **k: None\n"
        "    except Exception: pass\ndef add(a, b): return 0"
    ),
    "raises what tests catch": "def add(a, b): raise AssertionError('ok')",
    "raises what nothing catches": "def add(a, b): raise BaseException('ok')",
    "raises an end of iteration": "def add(a, b): raise StopIteration",
    "looks for the tests": (
        "import gc, os, re, sys\ndef add(a, b):\n    seen = repr([o for o in gc.get_objects() if isinstance(o, str)])\n"
        "    frame = sys._getframe()\n    while frame:\n        seen += repr(frame.f_locals)[:10**5]\n"
        "        frame = frame.f_back\n"
        "    for place in sys.argv + [os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs]:\n"
        "        try: seen += open(place).read()\n        except (OSError, ValueError): pass\n"
        "    found = re.search('SECRET' + r' == (\\d+)', seen)\n    return int(found[1]) if found else 0"
    ),
    "sends nonsense": "import os\ndef add(a, b):\n    for fd in range(3, 32):\n        try: os.write(fd, b'x' * 99)\n"
    "        except OSError: pass\n    return 0",
    "sends deep nesting": (
        "import os\ndef add(a, b):\n    data = b'[' * 500000\n    for fd in range(3, 32):\n"
        "        try: os.write(fd, len(data).to_bytes(4, 'big') + data)\n        except OSError: pass"
    ),
    "returns a list in itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "returns megabytes": "def add(a, b): return 'x' * 30_000_000",
    "returns nan": "def add(a, b): return float('nan')",
}
TESTS = [
    "SECRET = 0\nassert add(1, 2) == 3 and SECRET == 0",
    "assert abs(add(1, 2) - 3) < 1e-6",
    "assert math.isclose(add(1, 2), 3)",
    "assert int(add(1, 2)) in [3]",
    "try:\n    ok = add(1, 2) == 3\nexcept Exception:\n    ok = False\nassert ok",
]


def test_honest_program_passes_the_tests_that_cheats_are_given():
    assert passed(ADD, *TESTS, jail=False) == [True] * len(TESTS)


OFTEN_TRIED = (
    "returns an object that equals everything", "exits hard in the call", "prints results", "patches builtins",
    "shadows builtins", "looks for the tests", "hands out anything by name", "raises what nothing catches",
)  # fmt: skip


@pytest.mark.parametrize("jail", BOTH)
@pytest.mark.parametrize("name", [n if n in OFTEN_TRIED else pytest.param(n, marks=pytest.mark.slow) for n in CHEATS])
def test_cheats_pass_nothing(name, jail):
    assert passed(CHEATS[name], *TESTS, jail=jail, limits=Limits(time_s=3.0)) == [False] * len(TESTS)


@needs_namespace
def test_program_cannot_reach_the_process_of_the_tests():
    code = (
        "import os\ndef look(): return os.path.exists('/proc/1/mem'), os.path.exists('/proc')\n"
        "def signals():\n    found = []\n    for pid in range(2, 40000):\n        if pid == os.getpid(): continue\n"
        "        try: os.kill(pid, 0)\n        except ProcessLookupError: continue\n        found.append(pid)\n    return found"
    )
    assert passed(code, "assert look() == (False, False)", "assert signals() == []") == [True, True]


# --- programs that do harm --------------------------------------------------------------------------------------------


def attempt(body: str) -> str:
    """A program whose `attempt()` tells what came of it: a value, or the kind of the error."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    caught = "    except Exception as e:\n        return type(e).__name__\n    return 'done'"
    return f"import os, socket\ndef attempt():\n    try:\n{lines}\n{caught}"


@needs_namespace
@pytest.mark.parametrize(
    "body",
    [
        "return open('/etc/passwd').read()",
        "return open('/etc/hostname').read()",
        f"return open({str(Path(__file__))!r}).read()",
        "return open('/proc/self/environ').read()",
        "os.listdir('/tmp')",
        "open('/dev/null').read()",
    ],
)
def test_files_of_the_machine_are_out_of_sight(body):
    assert passed(attempt(body), "assert attempt() == 'FileNotFoundError'") == [True]


@needs_namespace
@pytest.mark.parametrize(
    "body", ["open(os.__file__, 'a')", "os.remove(os.__file__)", "os.rename(os.__file__, '/work/os')", "os.mkdir('/x')"]
)
def test_standard_library_and_root_cannot_be_changed(body):
    assert passed(attempt(body), "assert attempt() in ('OSError', 'PermissionError')") == [True]
    assert Path(os.__file__).is_file()


@needs_namespace
@pytest.mark.parametrize(
    "body",
    [
        "import ctypes\nassert ctypes.CDLL(None).mount(b'tmpfs', b'/usr', b'tmpfs', 0, None) == 0",
        "import ctypes\nassert ctypes.CDLL(None).umount2(b'/usr/lib', 2) == 0",
        "os.chroot('/')",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0  # a user namespace, privileged inside",
        "os.setuid(0)\nassert os.getuid() == 0 and open('/root/x', 'w')",
    ],
)
def test_no_privilege_is_left(body):
    assert passed(attempt(body), "assert attempt() in ('AssertionError', 'PermissionError', 'FileNotFoundError')") == [
        True
    ]


@needs_namespace
def test_network_cannot_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        assert passed(attempt(body), "assert attempt() not in ('done', 'TimeoutError')") == [True]
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


@needs_namespace
def test_files_that_it_writes_or_deletes_are_its_own(tmp_path):
    before = set(os.listdir("/tmp"))
    body = "import shutil\nopen('a', 'w').write('x')\nfor n in os.listdir('.'): os.remove(n)\nos.rmdir('/work')"
    assert passed(attempt(body), "assert attempt() in ('OSError', 'PermissionError')") == [True]
    assert {name for name in set(os.listdir("/tmp")) - before if name.startswith("work")} == set()


@pytest.mark.parametrize("jail", BOTH)
def test_big_files_are_refused(jail):
    body = "with open('big', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20)); f.flush()"
    assert passed(attempt(body), "assert attempt() == 'done'", jail=jail) == [False]


@needs_namespace
def test_many_files_fill_only_its_scratch_folder():
    body = "for i in range(100):\n    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))"
    assert passed(attempt(body), "assert attempt() == 'OSError'") == [True]


@pytest.mark.parametrize("jail", BOTH)
def test_memory_bomb_is_an_error_of_the_program(jail):
    body = "x = []\nwhile True: x.append(bytearray(10 << 20))"
    assert passed(attempt(body), "assert attempt() == 'MemoryError'", jail=jail) == [True]


@pytest.mark.slow
@pytest.mark.parametrize("jail", BOTH)
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("def f():\n    while True: pass", marks=pytest.mark.slow),
        pytest.param("while True: pass", marks=pytest.mark.slow),
        "import time\ndef f(): time.sleep(1000)",
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "def f():\n    while True: pass",
        "def f():\n    while True: print('x' * 10000)",
        pytest.param("def f(): return f'{2 ** (10 ** 9)}'", marks=pytest.mark.slow),
    ],
)
def test_programs_without_end_are_ended_and_the_rest_counts_as_failed(code, jail):
    began = time.monotonic()
    outcome = sandbox.run(code, ["assert f() == 1", "assert True"], "", QUICK, jail=jail)
    assert time.monotonic() - began < 15
    assert outcome.passed[0] is False
    assert outcome.why[0]


@pytest.mark.slow
@pytest.mark.parametrize("jail", BOTH)
def test_tests_that_passed_before_the_end_of_time_count(jail):
    code = ADD + "def forever():\n    while True: pass"
    outcome = sandbox.run(code, ["assert add(1, 2) == 3", "assert forever()"], "", Limits(time_s=3.0), jail=jail)
    assert outcome.passed == [True, False]
    assert "within 3 s" in outcome.why[1]


def alive(mark: str) -> list[int]:
    """Processes whose command line or name has the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "comm").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
@needs_namespace
@pytest.mark.parametrize(
    "how",
    [
        "while True: os.fork()",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(0)\ntime.sleep(1000)",
        "os.setsid() if os.getpid() != os.getsid(0) else None\nimport ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "if os.fork(): os._exit(0)\ntime.sleep(1000)",
    ],
    ids=["fork bomb", "daemon", "orphan that will not die with its parent"],
)
def test_whatever_it_starts_is_gone_afterwards(how):
    mark = f"rl{os.getpid() % 10**6}"
    named = f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\ndef f():\n"
    code = named + "\n".join(f"    {line}" for line in how.splitlines())
    assert passed(code, "assert f() == 1", limits=QUICK) == [False]
    wait_for(lambda: not alive(mark))
    assert alive(mark) == []


@needs_namespace
def test_fork_bomb_stays_small():
    code = (
        "import os, time\ndef f():\n    n = 0\n    try:\n        while n < 500:\n            if os.fork() == 0: time.sleep(1000)\n"
        "            n += 1\n    except OSError: pass\n    return n"
    )
    assert passed(code, "assert f() < 20") == [True]


@pytest.mark.slow
@needs_namespace
def test_namespace_ends_by_itself_when_whoever_started_it_cannot_end_it(monkeypatch):
    mark = f"bs{os.getpid() % 10**6}"
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\ndef f(): time.sleep(1000)"
    ended = threading.Event()
    monkeypatch.setattr(sandbox, "START_S", -2.0)  # the backstop comes 3 s after the start, the deadline never
    monkeypatch.setattr(sandbox, "_read", lambda *_: (ended.wait(20) and []) or [])

    def never_ready() -> None:
        with pytest.raises(SandboxError):
            sandbox.run(code, ["f()"], "", Limits(0.5))

    runner = threading.Thread(target=never_ready)
    runner.start()
    try:
        wait_for(lambda: alive(mark))
        wait_for(lambda: not alive(mark))
        assert not alive(mark)
    finally:
        ended.set()
        runner.join()


@needs_namespace
def test_no_folder_outside_is_open():
    code = (
        "import os, stat\ndef kinds():\n    found = []\n    for fd in range(64):\n"
        "        try: found.append(stat.S_IFMT(os.fstat(fd).st_mode))\n        except OSError: pass\n"
        "    return sorted({oct(kind) for kind in found})"
    )
    assert passed(code, "assert kinds() == ['0o140000', '0o20000']") == [True]  # the socket, and /dev/null


@pytest.mark.parametrize("jail", BOTH)
def test_environment_is_empty(jail, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hush")
    code = "import os\ndef env(): return [k for k in os.environ if k != 'LC_CTYPE']"
    assert passed(code, "assert env() == []", jail=jail) == [True]


# --- the sandbox itself -----------------------------------------------------------------------------------------------


@needs_namespace
def test_sandbox_is_to_be_had_where_the_system_gives_namespaces():
    assert sandbox.why_no_namespace() == ""


def test_sandbox_that_cannot_start_is_an_error_and_no_failed_test(monkeypatch):
    monkeypatch.setattr(sandbox, "INSIDE", Path("/nonexistent/inside.py"))
    with pytest.raises(SandboxError, match="inside"):
        sandbox.run(ADD, ["assert add(1, 2) == 3"], jail=False)
    monkeypatch.setattr(sandbox, "_wrapped", lambda jail: ["/nonexistent/unshare"])
    with pytest.raises(SandboxError, match="cannot start"):
        sandbox.run(ADD, ["assert add(1, 2) == 3"], jail=False)


def test_runs_at_the_same_time_do_not_disturb_each_other():
    found: dict[int, list[bool]] = {}

    def one(i: int) -> None:
        found[i] = passed(f"def f(): return {i}", *[f"assert f() == {j}" for j in range(4)], jail=False)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [i == j for j in range(4)] for i in range(4)}


def test_no_file_handle_is_left_open():
    passed(ADD, "assert add(1, 2) == 3", jail=False)
    before = len(os.listdir("/proc/self/fd"))
    passed(ADD, "assert add(1, 2) == 3", jail=False)
    assert len(os.listdir("/proc/self/fd")) == before


# --- tests in their shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "entry", "count"),
    [
        (["assert add(1, 2) == 3", "assert add(0, 0) == 0"], "", 2),
        ("x = 1\nassert add(x, 2) == 3\nx = 5\nassert add(x, 2) == 7\n", "", 2),
        ("def test_one():\n    assert add(1, 2) == 3\ndef test_two():\n    assert add(2, 2) == 4\n", "", 2),
        ("META = {}\ndef check(candidate):\n    assert candidate(1, 2) == 3\n", "add", 1),
        ("assert add(1, 2) == 3\nif __name__ == '__main__':\n    raise SystemExit\n", "", 1),
    ],
)
def test_tests_are_read_in_the_shapes_that_data_have(tests, entry, count):
    texts = split_tests(tests, entry)
    assert passed(ADD, *texts, entry=entry, jail=False) == [True] * count
    assert passed("def add(a, b): return None", *texts, entry=entry, jail=False) == [False] * count


@pytest.mark.parametrize(
    "tests", [[], "", None, 3, ["x = 1"], [3], "def check(c): assert c(1)", "assert (", "import add"]
)
def test_what_holds_no_test_is_refused(tests):
    with pytest.raises(NoTests):
        split_tests(tests)
