"""What every test stands on: one thread, no network, no account, a cache of its own, no card unless asked for."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = {
    "OMP_NUM_THREADS": "1",  # tiny models: one thread is faster than two, and sums come in one order
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "COLUMNS": "120",  # argparse and rich lay out their output for this width
}
SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is imported: the environment, which child processes of tests get as well."""
    os.environ.update(SETTINGS)
    for name in SECRETS:
        os.environ.pop(name, None)
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Fast tests do not wait for the import of TRL's trainers, which only slow ones are compared with."""
    return True if collection_path.name == "agreement" and "not slow" in config.option.markexpr else None


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's cache is neither read nor written. `RLHF_LORA_TEST_CACHE` keeps one from session to session."""
    kept = os.environ.get("RLHF_LORA_TEST_CACHE")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_LORA_CACHE", kept or str(tmp_path_factory.mktemp("cache")))
        patch.setenv("WANDB_DIR", tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Tests talk to this machine only; anything else is an error that names the address."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and address[0] not in LOCAL:
            raise RuntimeError(f"a test wanted to reach {address[0]}: tests are offline")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True)
def _own_plugins() -> Iterator[None]:
    """What a test registers or loads is gone after it; Hydra's store keeps it, where nobody finds it."""
    from rlhf_lora import doors, plugin_table

    doors.load_entry_points()
    kept = [(known, dict(known)) for known in (plugin_table.table, doors._files, doors._failures)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree by this environment's setuptools: no network, no traces in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("rlhf_lora", "plugins", "conf", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 64 channels that has hardly been trained, in Transformers layout."""
    from rlhf_lora.mini.base import BaseSettings, build_base

    folder = tmp_path_factory.mktemp("tiny-llama")
    build_base(folder, BaseSettings(steps=10, batch=8))
    return folder


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with biases, grouped heads and tied embeddings."""
    from tiny import build_qwen2

    folder = tmp_path_factory.mktemp("tiny-qwen2")
    build_qwen2(folder)
    return folder


@pytest.fixture
def plan(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The plan of a whole run of three updates with these overrides; the cache is empty."""
    from tiny import overrides

    from rlhf_lora.config import compose
    from rlhf_lora.plan import make_plan

    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    return lambda *more: make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more)))
