"""The sandbox: right programs pass, wrong ones fail, and those that cheat or do harm get nowhere.

Cheating is tried with and without a jail (`jail=False` is `reward.sandbox=none`); harm only with one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from namespaces import namespaces_here

from rlhf_lora import sandbox
from rlhf_lora.sandbox import Limits, NoTests, SandboxError, split_tests
from rlhf_lora.sandbox.jail import KEY_CALLS

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
    "values of the standard library": (
        "import sys\nfrom collections import *\nfrom datetime import *\nfrom decimal import Decimal\n"
        "from fractions import Fraction\n"
        "def all_of_them():\n    d = defaultdict(list)\n    d[1].append(2)\n"
        "    return [Counter('aab'), d, OrderedDict(b=1, a=2), deque([1, 2], 3), Fraction(4, 2), Decimal('2'), range(3),\n"
        "        date(2024, 2, 3), datetime(2024, 2, 3, 4, 5, 6, 7), time(1, 2), timedelta(1, 2, 3),\n"
        "        {1: 2}.keys(), {1: 2}.items()]",
        "import collections, datetime\nv = all_of_them()\nassert v[:3] == [{'a': 2, 'b': 1}, {1: [2]}, {'b': 1, 'a': 2}]\n"
        "assert v[0].most_common(1) == [('a', 2)] and v[1][5] == [] and list(v[2]) == ['b', 'a']\n"
        "assert v[3] == collections.deque([1, 2]) and v[3].maxlen == 3\nassert v[4] == 2 and v[5] == 2 and v[6] == range(3)\n"
        "assert v[7] == datetime.date(2024, 2, 3) and v[8] == datetime.datetime(2024, 2, 3, 4, 5, 6, 7)\n"
        "assert v[9:11] == [datetime.time(1, 2), datetime.timedelta(1, 2, 3)]\nassert v[11] == {1} and v[12] == {(1, 2)}",
    ),
    "named tuples and enums that are numbers": (
        "from collections import namedtuple\nfrom enum import IntEnum\nfrom typing import NamedTuple\n"
        "P = namedtuple('P', 'x y')\nclass Q(NamedTuple):\n    x: int\n    def twice(self): return 2 * self.x\n"
        "class Color(IntEnum):\n    RED = 2\ndef p(): return P(1, 2)\ndef q(): return [Q(4)]\ndef red(): return Color.RED\n"
        "def is_p(value): return isinstance(value, P)",
        "assert p() == (1, 2) and p().y == 2 and str(p()) == 'P(x=1, y=2)' and is_p(p())\n"
        "assert q() == [(4,)] and q()[0].twice() == 8\nassert red() == 2 and red() == Color.RED and red().name == 'RED'",
    ),
    "arguments of the standard library, changed in place": (
        "def more(d, c):\n    d.append(3)\n    c['a'] += 1",
        "import collections\nd, c = collections.deque([1]), collections.Counter('a')\nmore(d, c)\n"
        "assert list(d) == [1, 3] and c == {'a': 2}",
    ),
    "names that the loader has too": (
        "name, path, loader = 1, 2, 3",
        "assert (name, path, loader) == (1, 2, 3)",
    ),
    "names of modules, called as functions": (
        "def select(x): return x[0]\ndef copy(x): return x",
        "assert select([3, 1]) == copy(3) and sys.maxsize > 1",
    ),
    "an end of iteration where one belongs": (
        "class Count:\n    n = 0\n    def __iter__(self): return self\n    def __next__(self):\n        self.n += 1\n"
        "        if self.n > 2: raise StopIteration\n        return self.n",
        "c = Count()\nassert next(c) == 1 and next(c) == 2 and next(c, None) is None and list(Count()) == [1, 2]",
    ),
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
    "returns a tuple that equals everything": (
        "class T(tuple):\n    def __eq__(self, other): return True\n    __hash__ = tuple.__hash__\n"
        "    def __rsub__(self, o): return 0\n    __sub__ = __rsub__\ndef add(a, b): return T()"
    ),
    "returns a number that changes its attributes": (
        "class Int(int):\n    real = 3\n    def __index__(self): return 3\n    __int__ = __abs__ = __float__ = __index__\n"
        "    def __sub__(self, o): return 0\n    def __getattr__(self, name): return 3\ndef add(a, b): return Int(0)"
    ),
    "returns what it calls a Counter": (
        "import collections\nclass Counter(dict):\n    __module__ = 'collections'\n    def __eq__(self, other): return True\n"
        "    def __abs__(self): return 0\n    def __sub__(self, o): return 0\ncollections.Counter = Counter\n"
        "def add(a, b): return Counter()"
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


ENDS_LOOPS = [
    "cases = [((1, 2), 3)]\nassert all(map(lambda c: candidate(*c[0]) == c[1], cases))",
    "for got, want in zip(map(candidate, [1], [2]), [3]): assert got == want",
    "assert [candidate(1, 2) for _ in range(2)][:0] == []",
]


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration"])
def test_end_of_iteration_that_the_program_raises_does_not_end_a_loop_of_the_test(kind):
    code = f"def candidate(a, b): raise {kind}"
    assert passed(code, *ENDS_LOOPS, jail=False) == [False] * len(ENDS_LOOPS)


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


def key_calls(*lines: str) -> str:
    """A program with add_key, request_key and keyctl as `calls[0..2]`, each giving its result or minus its error."""
    numbers = KEY_CALLS[os.uname().machine][1:]
    return (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.syscall.restype = ctypes.c_long\n"
        "def call(number, *args):\n    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]\n"
        "    found = libc.syscall(ctypes.c_long(number), *args)\n"
        f"    return found if found >= 0 else -ctypes.get_errno()\nADD, REQUEST, KEYCTL = {numbers}\n"
        + "\n".join(lines)
    )


@needs_namespace
def test_keys_of_the_user_cannot_be_read_and_none_can_be_left_for_the_next():
    code = key_calls(
        "def search(ring): return call(KEYCTL, 10, ring, b'user', b'my_secret', 0)",
        "def leave(): return call(ADD, b'user', b'left', b'here', 4, -4)",
        "def request(): return call(REQUEST, b'user', b'my_secret', None, 0)",
        "def otherwise(): return call(KEYCTL | 1 << 30, 10, -3, b'user', b'my_secret', 0)",
    )
    refused = ["search(-3)", "search(-4)", "leave()", "request()"] + ["otherwise()"] * (os.uname().machine == "x86_64")
    tests = [f"assert {call} == -1, {call}" for call in refused]  # EPERM
    # a process with a keyring of its own, so that no key is left in anybody's
    outside = key_calls(
        "import json, sys\nfrom rlhf_lora import sandbox",
        "call(KEYCTL, 1, None)\nkey = call(ADD, b'user', b'my_secret', b'hunter2', 7, -3)",
        "code, tests = json.load(sys.stdin)",
        "found = call(KEYCTL, 10, -3, b'user', b'my_secret', 0) == key > 0",
        "print(json.dumps([found, *sandbox.run(code, tests).why]))",
    )
    done = subprocess.run(
        [sys.executable, "-c", outside], input=json.dumps([code, tests]), capture_output=True, text=True, check=True
    )
    found, *why = json.loads(done.stdout)
    if not found:
        pytest.skip("the system has no keyrings")
    assert why == [""] * len(tests)


@needs_namespace
def test_machine_whose_key_calls_are_not_known_has_no_sandbox(tmp_path):
    for file in Path(sandbox.__file__).parent.glob("*.py"):
        text = file.read_text().replace('"x86_64"', '"x87"').replace('"aarch64"', '"aarch65"')
        (tmp_path / file.name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "INSIDE", tmp_path / "inside.py")
        with pytest.raises(SandboxError, match="not known for"):
            sandbox.run(ADD, ["assert add(1, 2) == 3"])


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


@needs_namespace
def test_threads_and_processes_are_counted_for_each_program_alone():
    code = (
        "import threading, time\ndef f():\n    threads = [threading.Thread(target=time.sleep, args=(2,)) for _ in range(4)]\n"
        "    for t in threads: t.start()\n    for t in threads: t.join()\n    return len(threads)"
    )
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: sandbox.run(code, ["assert f() == 4"]).why, range(6)))
    assert found == [[""]] * 6


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
        ("def test_one():\n    assert add(1, 2) == 3\nassert add(2, 2) == 4\n", "", 2),
        ("def check(candidate):\n    assert candidate(1, 2) == 3\nassert add(2, 2) == 4\n", "add", 2),
        ("def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)\n", "", 1),
        ("for a in (1, 2):\n    assert add(a, 2) == a + 2\nelse:\n    assert add(0, 0) == 0\n", "", 1),
        (["def test_one():\n    assert add(1, 2) == 3\ndef test_two(a=2):\n    assert add(a, 2) == 4\n"], "", 2),
        (
            "assert add(0, 3) == "
            + "+".join(["1"] * 3)
            + "\nx = "
            + "+".join(["1"] * 200)
            + "\nassert add(x, 0) == 200",
            "",
            2,
        ),
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


UNFIT = {
    "solution": "from solution import add\nassert add(1, 2) == 3",
    "pytest": "import pytest\ndef test_a():\n    assert add(1, 2) == 3",
    "beside itself": "from . import add\nassert add(1, 2) == 3",
    "tmp_path": "def test_a(tmp_path):\n    assert add(1, 2) == 3",
    "a class": "class TestAdd:\n    def test_a(self):\n        assert add(1, 2) == 3",
    "async": "async def test_a():\n    assert add(1, 2) == 3\nassert add(1, 2) == 3",
    "no entry": "def check(candidate):\n    assert candidate(1, 2) == 3\nassert add(1, 2) == 3",
    "cannot be parsed": "assert f() == " + "+".join(["1"] * 3000),
    "outside function": "return 3\nassert add(1, 2) == 3",
    "no test in": ["def helper():\n    assert add(1, 2) == 3"],
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_no_program_could_pass_is_the_fault_of_the_row(why):
    with pytest.raises(NoTests, match=why):
        split_tests(UNFIT[why])


@pytest.mark.parametrize("entry", ["has-close(", float("nan"), 5, ["add"], {"a": 1}, None, "def", "a.b"])
def test_entry_that_is_no_name_is_the_fault_of_the_row(entry):
    with pytest.raises(NoTests, match="entry is"):
        split_tests("def check(candidate):\n    assert candidate(1, 2) == 3\n", entry)


def test_many_terms_are_read_or_told_and_never_end_the_run():
    for count in (100, 400, 900, 5000, 100_000):
        try:
            scripts = split_tests("assert f() == " + "+".join(["1"] * count))
        except NoTests:
            continue
        assert passed(f"def f(): return {count}", *scripts, jail=False) == [True]


def test_script_runs_once_so_that_what_it_changes_stays_changed():
    code = "s = []\ndef push(x): s.append(x)\ndef size(): return len(s)\ndef pop(): return s.pop()\n"
    script = "push(1)\nassert size() == 1\npush(2)\nassert size() == 3\nassert pop() == 2\nassert size() == 1\n"
    assert passed(code, *split_tests(script), jail=False) == [True, False, True, True]


def test_script_that_ends_early_fails_the_tests_after_it_and_says_why():
    script = "assert add(1, 2) == 3\nadd(1)\nassert add(1, 2) == 3\ndef test_a():\n    assert add(1, 2) == 3\n"
    outcome = sandbox.run(ADD, [*split_tests(script), "assert add(2, 2) == 4"], jail=False)
    assert outcome.passed == [True, False, False, True]
    assert [why.partition(":")[0] for why in outcome.why] == ["", "TypeError", "TypeError", ""]
