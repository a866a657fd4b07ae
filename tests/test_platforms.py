"""What can be held on Linux of Windows and Colab: encodings are named, POSIX names are guarded, branches for Windows run.

`docs/platforms.md` says what was tried and what was not.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rlhf_lora import atomic, interrupts, user_presets
from rlhf_lora.plan import cache_folder
from rlhf_lora.sweep import jobs

ROOT = Path(__file__).resolve().parent.parent
FILES = [file for top in ("rlhf_lora", "plugins", "conf", "benchmarks") for file in sorted((ROOT / top).rglob("*.py"))]
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
WINDOWS_MODULES = {"msvcrt", "winreg", "_winapi"}
POSIX_NAMES = {
    *(
        "os.fork",
        "os.killpg",
        "os.getpgid",
        "os.setsid",
        "os.sysconf",
        "os.uname",
        "os.getuid",
        "os.geteuid",
        "os.nice",
    ),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.SIGALRM", "signal.SIGUSR1", "signal.SIGUSR2", "signal.SIGCHLD"),
    *("signal.alarm", "signal.pause", "os.sched_getaffinity", "os.mkfifo", "os.WIFEXITED"),
}


# --- the source -------------------------------------------------------------------------------------------------------


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines that read or write text in whatever encoding the machine happens to have."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        words = {word.arg: word.value for word in node.keywords}
        given = [ast.unparse(argument) for argument in node.args]
        if None in words or "encoding" in words:
            continue
        opens = name == "open" and (isinstance(node.func, ast.Name) or is_mode(given[:1]))
        how = mode(given[1:] if isinstance(node.func, ast.Name) else given, words)
        runs = name in ("run", "Popen", "check_output") and ("text" in words or "universal_newlines" in words)
        by_path = (name == "read_text" and not given) or (name == "write_text" and len(given) == 1)
        if (opens and "b" not in how) or by_path or runs:
            yield node.lineno


def mode(given: list[str], words: dict[str | None, ast.expr]) -> str:
    return ast.unparse(words["mode"]) if "mode" in words else given[0] if given else "r"


def is_mode(given: list[str]) -> bool:
    """Of `path.open("a")`; the argument of a plugin's `open(ctx)` is none."""
    return bool(given) and re.fullmatch(r"""['"][rwax+tb]{1,3}['"]""", given[0]) is not None


def unguarded(tree: ast.AST, guarded: bool = False) -> Iterator[tuple[int, str]]:
    """(line, name) of what only one system has, outside of a `try` and of a branch that asks for the system."""
    for node in ast.iter_child_nodes(tree):
        safe = guarded or (isinstance(node, ast.Try) and bool(node.handlers))
        if isinstance(node, ast.If | ast.IfExp):
            safe = safe or bool(re.search(r"sys\.platform|os\.name|hasattr", ast.unparse(node.test)))
        if not safe:
            if isinstance(node, ast.Attribute) and ast.unparse(node) in POSIX_NAMES:
                yield node.lineno, ast.unparse(node)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from ((node.lineno, name) for name in names if name in POSIX_MODULES | WINDOWS_MODULES)  # type: ignore[attr-defined]
        yield from unguarded(node, safe)


@pytest.mark.slow  # every file of the tree, node by node
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_text_files_are_opened_with_an_encoding_and_posix_names_are_guarded(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert list(without_encoding(tree)) == [], "name the encoding"
    linux = file.parent.name in ("benchmarks", "sandbox")  # measured there; refused elsewhere
    if not linux:
        assert list(unguarded(tree)) == [], "not there on every system"


@pytest.mark.parametrize(
    "code",
    ["open('x')", "open('x', 'w')", "open('x', mode='a')", "p.open('a')", "p.read_text()", "p.write_text('x')",
     "subprocess.run(['x'], text=True)", "f(open('x').read())"],
)  # fmt: skip
def test_the_search_finds_text_without_an_encoding(code):
    assert list(without_encoding(ast.parse(code))) == [1]


@pytest.mark.parametrize(
    "code",
    ["open('x', 'rb')", "open('x', encoding='utf-8')", "p.open('ab')", "p.read_text('utf-8')", "reward.open(ctx)",
     "write_text(path, 'x')", "p.write_text('x', 'utf-8')", "subprocess.run(['x'])", "webbrowser.open(url)"],
)  # fmt: skip
def test_the_search_leaves_the_others_alone(code):
    assert list(without_encoding(ast.parse(code))) == []


def test_the_search_finds_what_is_not_guarded():
    assert list(unguarded(ast.parse("import fcntl"))) == [(1, "fcntl")]
    assert list(unguarded(ast.parse("def f():\n    os.killpg(1, signal.SIGKILL)"))) == [
        (2, "os.killpg"),
        (2, "signal.SIGKILL"),
    ]
    assert list(unguarded(ast.parse("try:\n    import fcntl\nexcept ImportError:\n    pass"))) == []
    assert list(unguarded(ast.parse("if sys.platform != 'win32':\n    os.fork()"))) == []


# --- the branches for Windows, run here -------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch):
    """What our code asks to know where it is. Not Windows: file systems, consoles and processes stay Linux's."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", signal.SIGUSR1, raising=False)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)


def test_the_cache_is_where_windows_keeps_such_things(windows, monkeypatch, tmp_path):
    monkeypatch.delenv("RLHF_LORA_CACHE", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "rlhf_lora"


def test_folders_are_published_where_folders_cannot_be_flushed(windows, tmp_path, monkeypatch):
    original = os.open

    def as_on_windows(path, flags, *more, **of_rmtree):
        if of_rmtree:
            return original(path, flags, *more, **of_rmtree)
        assert not Path(path).is_dir(), "PermissionError on Windows"
        assert flags & os.O_RDWR, "flushing wants a file that may be written to"
        return original(path, flags, *more)

    monkeypatch.setattr(os, "open", as_on_windows)
    for text in ("one", "two"):
        with atomic.staging(tmp_path / "folder") as temp:
            (temp / "file").write_text(text, "utf-8")
        assert (tmp_path / "folder" / "file").read_text("utf-8") == text
    atomic.write_text(tmp_path / "file", "three")


def test_ctrl_break_is_a_request_to_save_and_leave(windows):
    with interrupts.Interrupts() as asked:
        os.kill(os.getpid(), signal.SIGUSR1)  # the fixture's Ctrl-Break
        assert asked.number == signal.SIGINT  # and so the exit code is that of an interrupted run


def test_a_job_of_a_sweep_is_a_group_of_its_own_and_asked_by_ctrl_break(windows):
    assert jobs.apart() == {"creationflags": 512}
    assert jobs.request_to_leave(signal.SIGTERM) == signal.SIGUSR1


def test_elsewhere_a_job_is_a_session_and_gets_the_signal_that_came():
    assert jobs.apart() == {"start_new_session": True}
    assert jobs.request_to_leave(signal.SIGTERM) == signal.SIGTERM


def test_a_windows_path_reaches_hydra_whole():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for folder, url in (
        (r"C:\Users\Jane Doe\presets", "file://C:/Users/Jane Doe/presets"),
        (r"D:\it's, mine", "file://D:/it's, mine"),
    ):
        override = user_presets.search_path(PureWindowsPath(folder))  # type: ignore[arg-type]
        (parsed,) = OverridesParser.create().parse_overrides([override])
        assert parsed.value() == [url]


def test_no_file_name_that_we_make_has_a_character_that_windows_refuses():
    import datetime

    now = datetime.datetime(2026, 1, 2, 3, 4, 5)
    source = "".join(file.read_text("utf-8") for file in FILES)
    for made in re.findall(r"strftime\(\"([^\"]+)\"\)", source) + re.findall(r"\{now:([^}]+)\}", source):
        assert not set('<>:"|?*') & set(now.strftime(made)), made


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["plugins"]])
def test_a_pipe_that_knows_few_characters_gets_a_question_mark_and_no_traceback(arguments):
    environ = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-m", "rlhf_lora", *arguments], capture_output=True, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


# --- Colab ------------------------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TORCH = [Requirement(text) for text in PROJECT["project"]["dependencies"] if Requirement(text).name.startswith("torch")]


def test_torch_is_asked_for_from_a_version_on_and_no_more():
    (torch,) = TORCH
    assert [clause.operator for clause in torch.specifier] == [">="]
    assert torch.url is None
    for version in ("2.10.0+cu126", "2.11.0+cu130", "3.0.0", "2.12.0.post1"):  # whatever Colab brings
        assert torch.specifier.contains(Version(version))


def test_no_index_is_forced_on_who_installs():
    assert not {"uv", "pdm", "poetry", "pip"} & PROJECT["tool"].keys()
    assert not any("@" in text for text in PROJECT["project"]["dependencies"])


def test_the_page_shows_an_install_without_constraints():
    page = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```\w*\n(.*?)```", page, flags=re.DOTALL))
    assert "pip install rlhf-lora\n" in blocks
    assert "constraints.txt" not in blocks
    assert "index-url" not in blocks


@pytest.mark.slow
def test_pip_replaces_no_package_where_all_that_is_needed_is_there(wheel):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "-q", "--report", "-", str(wheel)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r'"name": "([\w-]+)"', done.stdout)) <= {"rlhf-lora"}
