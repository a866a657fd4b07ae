"""Two old releases of TRL, each in a folder of its own, and pieces of their source as functions that can be called.

Nothing of them is in this repository, and nothing of them gets into the environment: pip puts a wheel of known hash into
a cache folder, and a test takes what it compares with out of the files there. Much of PPO in trl 1.12.0 stands inside
`PPOTrainer.train`, where no import reaches it; its statements are cut out of the syntax tree and run on given tensors.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

OFFLINE = "RLHF_LORA_TEST_OFFLINE"  # set to 1: these tests are skipped, with the reason, where they would fail
HASHES = {
    "1.12.0": "9c8f117b21a941edbc85744f5a341c9453d38e81f24ae81d3c6e9b9ca3b96409",  # the last with PPO
    "0.11.4": "071d64164c152ef65b44d15f878793b28d3340310c9e157dc3608bbe5fa549a9",  # the last with the KL controller
}


def installed(version: str) -> Path:
    """Folder with trl of that version and nothing else; fetched once, then taken from the cache.

    Without the package index this is a failure, not a pass; or a skip, where `RLHF_LORA_TEST_OFFLINE=1` says so.
    """
    cache = Path(os.environ["RLHF_LORA_CACHE"]) / "agreement"  # of the tests alone: see tests/conftest.py
    folder = cache / f"trl-{version}"
    if folder.exists():
        return folder
    if os.environ.get(OFFLINE) == "1":
        pytest.skip(f"trl {version} is not here to compare with, and {OFFLINE}=1 says that there is no network")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        wanted = Path(made, "requirements.txt")
        wanted.write_text(f"trl=={version} --hash=sha256:{HASHES[version]}\n")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:",
                   "--target", f"{made}/trl", "-r", str(wanted)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(
                f"pip could not get trl {version} to compare with. Without a package index set {OFFLINE}=1: these tests "
                f"are skipped then.\n{done.stderr.strip()[-2000:]}",
                pytrace=False,
            )
        try:
            os.replace(f"{made}/trl", folder)
        except OSError:  # another test process was faster
            shutil.rmtree(f"{made}/trl")
    return folder


def take(scope: dict[str, Any], file: Path, *names: str) -> None:
    """Put functions and classes of a file into `scope`, methods too, with nothing else of the file being run.

    Args:
        scope: what they use of their module, by name; they find each other in it.

    Raises:
        LookupError: the file has no such function, or several.
    """
    found = [n for n in ast.walk(_tree(file)) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in names]
    if sorted(node.name for node in found) != sorted(names):
        raise LookupError(f"{file} has {sorted(node.name for node in found)}, wanted {sorted(names)}")
    for node in found:
        node.decorator_list = []
    exec(_code(found, file), scope)


def statements(file: Path, function: str, first: str, last: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Part of a function: in the block that assigns to `first`, from there to the last statement that assigns to `last`,
    itself or further in. It becomes a function from the names that it finds to the names that it leaves.

    Raises:
        LookupError: there is no such part, or there are several.
    """
    (whole,) = (n for n in ast.walk(_tree(file)) if isinstance(n, ast.FunctionDef) and n.name == function)
    found = []
    for node in ast.walk(whole):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            starts = [
                i for i, statement in enumerate(body) if isinstance(statement, ast.Assign) and _sets(statement, first)
            ]
            ends = [i for i, statement in enumerate(body) if _sets(statement, last)]
            if starts and ends and starts[0] <= ends[-1]:
                found.append(body[starts[0] : ends[-1] + 1])
    if len(found) != 1:
        raise LookupError(f"{file}: {function} has {len(found)} parts from {first} to {last}")

    code = _code(found[0], file)

    def run(names: Mapping[str, Any]) -> dict[str, Any]:
        scope = dict(names)
        exec(code, scope)
        return scope

    return run


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _sets(statement: ast.stmt, name: str) -> bool:
    targets = [target for node in ast.walk(statement) if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _code(nodes: list[Any], file: Path) -> CodeType:
    # Annotations stay text: they name types that are not here.
    future = ast.ImportFrom(module="__future__", names=[ast.alias(name="annotations")], level=0)
    module = ast.fix_missing_locations(ast.Module(body=[future, *nodes], type_ignores=[]))
    return compile(module, str(file), "exec")
