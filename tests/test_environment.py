"""`rlhf-lora env`: enough for a bug report, nothing private, and it works where torch does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lora import cli, environment, registry


def run(home: Path, *arguments: str, code: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """`rlhf-lora env` in a process of its own, in the home of somebody with a name and secrets."""
    environ = {k: v for k, v in os.environ.items() if k not in ("RLHF_LORA_CACHE", "XDG_CACHE_HOME")}
    environ |= {"HOME": str(home), "USER": "jane-doe", "HF_TOKEN": "hush-hush", "OPENAI_API_KEY": "hush-hush"} | extra
    script = f"import sys\nfrom rlhf_lora import cli\n{code}\ncode = cli.run({['env', *arguments]})\n"
    script += "print(sorted({'torch', 'transformers'} & sys.modules.keys()), file=sys.stderr)\nsys.exit(code)"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, timeout=120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "jane-doe"
    stage = folder / ".cache" / "rlhf_lora" / "stages"
    stage.mkdir(parents=True)
    (stage / "weights").write_bytes(b"x" * 2**21)
    os.link(stage / "weights", stage / "the same")
    return folder


@pytest.mark.slow
def test_it_says_what_a_report_needs_and_loads_nothing_heavy(home):
    done = run(home, "--json", OMP_NUM_THREADS="3")
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    found = json.loads(done.stdout)
    assert {"python", "platform", "torch", "transformers", "trl", "bitsandbytes", "threads", "cores"} <= found.keys()
    assert found["settings"]["OMP_NUM_THREADS"] == "3"
    assert found["cache"] == {"folder": os.path.join("~", ".cache", "rlhf_lora"), "gib": 0.002}
    built_in = {e.name for e in registry.entries("reward") if e.cls.__module__.startswith("rlhf_lora.plugins.")}
    assert built_in == set(found["plugins"]["reward"])  # of its own process: no test's plugins
    assert found["failed_plugins"] == {}
    assert "gpu" not in found


@pytest.mark.parametrize("flags", [(), pytest.param(("--json",), marks=pytest.mark.slow)])
def test_no_secret_no_user_name_and_no_home_are_in_it(flags, home):
    more = {"HF_HOME": str(home / "models"), "RLHF_LORA_CACHE": str(home / "cache")}
    done = run(home, *flags, **more)
    assert done.returncode == 0
    assert "~/models" in done.stdout
    for private in ("hush-hush", "jane-doe", str(home)):
        assert private not in done.stdout


@pytest.mark.slow
def test_a_plugin_package_that_failed_is_named_with_its_reason(home):
    fail = f"from rlhf_lora import doors\ndoors._failures['lovely-rewards'] = 'ImportError: {home}/x.py'"
    done = run(home, code=fail)
    assert "lovely-rewards: ImportError: ~/x.py" in done.stdout


@pytest.mark.slow
def test_with_a_torch_that_cannot_be_loaded_it_says_so(home):
    done = run(home, "--gpu", code="sys.modules['torch'] = None")
    assert done.returncode == 0
    assert "torch cannot be loaded" in done.stdout


def test_asked_for_the_card_it_says_what_torch_sees(capsys):
    assert cli.run(["env", "--gpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"]


def test_every_verb_is_handed_the_flags_that_it_knows(monkeypatch):
    handed = {}
    for verb in cli.VERBS:
        monkeypatch.setitem(cli.VERBS, verb, lambda words, flags, verb=verb: handed.update({verb: flags}) or 0)
        assert cli.run([verb, *cli.FLAGS.get(verb, ())]) == 0
        assert handed[verb] == set(cli.FLAGS.get(verb, ()))
    assert handed.keys() == cli.VERBS.keys()


@pytest.mark.parametrize("wrong", ["--cuda", "seed=1", "now"])
def test_what_it_does_not_know_is_refused(wrong, capsys):
    assert cli.run(["env", wrong]) == 2
    assert "--gpu" in capsys.readouterr().err


def test_text_has_a_line_for_every_fact():
    found = {"python": "3.11", "settings": {}, "cache": {"gib": 1.5}, "plugins": {"judge": []}, "failed_plugins": {}}
    assert environment.as_text(found) == (
        "python: 3.11\ncache:\n  gib: 1.5\nplugins:\n  judge: none\nfailed_plugins: none\n"
    )
