"""`reward=unit_tests`: off unless asked for, refused where it cannot be safe, and a failed sandbox is no score."""

from __future__ import annotations

import json
from typing import Any

import pytest
from namespaces import namespaces_here
from rlhf_lora.plugins.rewards import unit_tests as module
from rlhf_lora.plugins.rewards.unit_tests import program_in

from rlhf_lora import sandbox
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import build
from rlhf_lora.stages.scoring import Scorer

needs_linux = pytest.mark.skipif(bool(sandbox.why_not()), reason=sandbox.why_not() or "-")
needs_namespace = pytest.mark.skipif(not namespaces_here(), reason="the system gives no namespaces")
ADD = "```python\ndef add(a, b):\n    return a + b\n```"
TWO = ["assert add(1, 2) == 3", "assert add(1, 2) == 4"]


def made(**settings: Any) -> Any:
    return build("reward", {"name": "unit_tests", "run_code": True, "sandbox": "none", **settings})


def score(text: str, tests: Any, entry: str | None = None, **settings: Any) -> Score:
    sample = Sample("p", text, columns={} if entry is None else {"entry": entry})
    (found,) = made(**settings).score([sample], tests=[tests])
    return found


# --- refused ----------------------------------------------------------------------------------------------------------


def test_off_unless_asked_for():
    with pytest.raises(ConfigError, match="off by default") as error:
        build("reward", {"name": "unit_tests"})
    assert "reward.run_code=true" in error.value.fix


@needs_linux
def test_refused_where_no_namespace_is_to_be_had_unless_told_to_go_without(monkeypatch):
    monkeypatch.setattr(module.sandbox, "why_no_namespace", lambda: "unshare: not permitted")
    with pytest.raises(ConfigError, match="unshare: not permitted") as error:
        made(sandbox="namespace")
    assert "reward.sandbox=none" in error.value.fix
    assert made(sandbox="none").sandbox == "none"


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_refused_on_other_systems_with_either_setting(platform, monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", platform)
    for kind in ("namespace", "none"):
        with pytest.raises(ConfigError, match=f"needs Linux, this is {platform}"):
            made(sandbox=kind)


def test_namespace_that_the_kernel_refuses_is_told_in_its_words(monkeypatch):
    def refused(*_: Any, **__: Any) -> None:
        raise sandbox.SandboxError("unshare: unshare failed: Operation not permitted")

    monkeypatch.setattr(sandbox, "run", refused)
    sandbox.why_no_namespace.cache_clear()
    try:
        assert sandbox.why_no_namespace() == "unshare: unshare failed: Operation not permitted"
    finally:
        sandbox.why_no_namespace.cache_clear()


@pytest.mark.parametrize(
    "settings",
    [{"sandbox": "docker"}, {"code": "some"}, {"count": "most"}, {"time_s": 0}, {"memory_mb": 1}, {"workers": 0}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        made(**settings)


# --- scores -----------------------------------------------------------------------------------------------------------


@needs_linux
def test_share_or_all():
    found = score(ADD, TWO)
    assert (found.value, found.parts) == (0.5, {"passed": 1, "total": 2})
    assert found.reason == "1 of 2 passed; test 1: AssertionError"
    assert score(ADD, TWO, count="all").value == 0
    assert score(ADD, TWO[:1], count="all").value == 1


@needs_namespace
def test_in_namespaces_and_in_order():
    samples = [Sample("p", ADD), Sample("p", "```python\ndef add(a, b): return 4\n```"), Sample("p", "no")]
    scores = made(sandbox="namespace").score(samples, tests=[TWO[:1], TWO, TWO])
    assert [s.value for s in scores] == [1.0, 0.5, 0.0]
    assert made(sandbox="namespace").score([], tests=[]) == []


@pytest.mark.parametrize(
    "text", ["", "I cannot.", "```json\n{}\n```", "```python\n\n```", "def add(a, b): return a + b"]
)
def test_answer_without_a_program_is_zero_and_says_so(text):
    found = score(text, TWO)
    assert (found.value, found.reason, found.parts) == (0.0, "no program in the answer", {"passed": 0, "total": 2})


@needs_linux
def test_whole_answer_is_a_program_when_told_so():
    assert score("def add(a, b): return a + b", TWO[:1], code="whole").value == 1


@needs_linux
def test_humaneval_rows_are_checked_by_their_entry():
    tests = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    assert score(ADD, tests, entry="add").value == 1
    assert score(ADD, tests).kind == "unreadable"


@pytest.mark.parametrize("tests", [None, [], "x = 1", ["assert ("]])
def test_row_without_readable_tests_has_no_score(tests):
    found = score(ADD, tests)
    assert (found.value, found.kind) == (None, "unreadable")


@needs_linux
def test_mix_has_the_time_of_its_parts():
    part = {"name": "unit_tests", "run_code": True, "sandbox": "none"}
    mix = build("reward", {"name": "mix", "parts": {"a": part, "b": {"name": "length"}, "c": part}})
    assert mix.open(Context()).call_seconds(7) == 2 * made().call_seconds(7) > 0


@pytest.mark.parametrize("entry", [float("nan"), 5, ["add"], {"a": 1}, "has-close("])
def test_row_with_an_entry_that_is_no_name_has_no_score(entry):
    found = score(ADD, TWO, entry=entry)
    assert (found.value, found.kind) == (None, "unreadable")
    assert "entry" in found.reason


@pytest.mark.slow
@needs_linux
def test_many_endless_programs_are_scores_and_not_a_reward_that_hangs(monkeypatch):
    monkeypatch.setattr(sandbox, "START_S", 10.0)
    source = made(time_s=0.4)
    samples = [Sample("p", "```python\nwhile True: pass\n```", columns={"tests": TWO})] * 4
    with Scorer(source, "unit_tests", deadline=0.5).overlapping() as overlap:
        overlap.add(range(4), samples)
        assert [found.value for found in overlap.scores(4)] == [0.0] * 4
    assert source.call_seconds(5) == 3 * source.call_seconds(2) >= 3 * 10.4


def test_sandbox_that_cannot_start_is_no_score(monkeypatch):
    monkeypatch.setattr(sandbox, "_wrapped", lambda jail: ["/nonexistent/unshare"])
    found = score(ADD, TWO)
    assert (found.value, found.kind) == (None, "error")
    assert "could not start" in found.reason


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```\nor\n```py\nb\n```\n```\nout\n```", "b\n"),
        ("```\na\n```\n```bash\nls\n```", "a\n"),
        ("  ```Python title=x\n  a\n  ```", "a\n"),
        ("1. So:\n\n    ```python\n    def f():\n        return 1\n    ```", "def f():\n    return 1\n"),
        ('- ```python\n  a = """\nx\n"""\n  ```', 'a = """\nx\n"""\n'),
        ("```python\n    a\n      b\n```", "a\n  b\n"),
        ('````python\nx = """\n```\n"""\n````', 'x = """\n```\n"""\n'),
        ("~~~py\na\n```\nb\n~~~~\n", "a\n```\nb\n"),
        ("``` python\r\na\r\n```\r\n", "a\r\n"),
        ("Write ```a``` so:\n```x``` y\n```py\nb\n```", "b\n"),
        ("```bash\nls\n```", None),
        ("```python\nno end", None),
    ],
)
def test_last_python_block_is_the_program(text, program):
    assert program_in(text) == program


def test_rows_of_a_file_bring_their_tests(tmp_path):
    rows = [
        {"prompt": "Write add.", "tests": TWO, "entry": "add"},
        {"prompt": "Write sub.", "tests": "assert 1", "entry": "s"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    prompts = build("dataset", {"name": "jsonl", "path": str(file)}).load().prompts
    assert [(p.columns["tests"], p.columns["entry"]) for p in prompts] == [(TWO, "add"), ("assert 1", "s")]
