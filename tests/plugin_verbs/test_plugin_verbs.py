"""`rlhf-lora plugins new`, `check`, `try` and the replay of a run: what a plugin's author meets, from an empty folder on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import jsonl, overrides

from rlhf_lora import cli, doors, registry
from rlhf_lora.config import compose
from rlhf_lora.plugin_verbs import replay
from rlhf_lora.plugin_verbs.rows import of_run
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.scoring import Scorer

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = """\
from rlhf_lora import Score, reward
@reward("parts")
def parts(samples, *, polite: float = 1.0):
    return [Score(polite * ("please" in s.text) - len(s.text) / 100, {"polite": float("please" in s.text), "size": len(s.text)},
                  "said please" if "please" in s.text else "rude\\x1b[31m") for s in samples]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert cli.run(["plugins", *words]) == status
    out = capsys.readouterr()
    return out.out, out.err


# --- new --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", registry.KINDS)
def test_what_new_writes_can_be_loaded_and_says_what_comes_next(kind, capsys):
    out, _ = said(capsys, "new", kind, "my_own", "--to", "mine")
    doors.load_file("mine/my_own.py")
    assert registry.lookup(kind, "my_own").summary
    assert f"rlhf-lora plugins check {Path('mine/my_own.py')}" in out
    assert Path("mine/my_own.jsonl").is_file() == (kind in ("reward", "dataset"))
    assert Path("mine/test_my_own.py").read_text().count("check_") == 2  # its import, and the one line


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "reward" else pytest.mark.slow) for kind in registry.KINDS]
)
def test_what_new_writes_passes_its_check_and_its_own_test_at_once(kind, capsys):
    said(capsys, "new", kind, "my_own")
    more = ["path=my_own.jsonl"] if kind == "dataset" else []
    out, _ = said(capsys, "check", "my_own.py", *more, "--json")
    assert json.loads(out)["passed"], out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_own.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout


def test_new_replaces_nothing(capsys):
    Path("test_brevity.py").write_text("mine")
    _, err = said(capsys, "new", "reward", "brevity", status=2)
    assert "test_brevity.py is there already" in err
    assert not Path("brevity.py").exists()
    assert Path("test_brevity.py").read_text() == "mine"


def test_a_file_where_a_folder_should_be_is_one_message(capsys):
    Path("taken").write_text("mine")
    kept_run(Path("run"))
    for words in (["new", "reward", "brevity", "--to", "taken"], ["new", "reward", "brevity", "--to", "taken/deeper"]):
        out, err = said(capsys, *words, status=2)
        assert "cannot be written" in err
        assert "where: taken" in err
        assert "to do: name a folder" in err
        assert not out
    Path("counts.py").write_text(
        "from pathlib import Path\nfrom rlhf_lora import reward\n@reward('counts')\n"
        "def counts(samples):\n    Path('asked').write_text('x')\n    return [0.0] * len(samples)\n"
    )
    Path("page.html").mkdir()
    files = {"taken": "taken/replay-counts.html", "page.html": "page.html"}
    if Path("/proc/self").exists():  # a folder that takes no files, not even root's
        files["/proc/page.html"] = "/proc/page.html"
    for to, file in files.items():
        _, err = said(capsys, "try", "counts.py", "--run", "run", "--to", to, status=2)
        assert f"{file} cannot be written" in err
        assert not Path("asked").exists()  # it is seen before the reward is asked


def test_what_new_prints_can_be_given_to_a_shell(capsys):
    out, _ = said(capsys, "new", "reward", "brevity")
    assert "plugins try plugins=[brevity.py] reward=brevity --data brevity.jsonl" in out  # as the pages have it
    out, _ = said(capsys, "new", "reward", "brevity", "--to", "my dir")
    commands = [shlex.split(line) for line in out.partition("next:")[2].splitlines() if line.strip()]
    assert [words[-1] for words in (commands[0], commands[3])] == ["my dir/brevity.py", "my dir/test_brevity.py"]
    assert commands[1][3:6] == ["plugins=[my dir/brevity.py]", "reward=brevity", "--data"]
    assert cli.run(commands[1][1:]) == 0
    assert compose(*commands[2][2:]).reward.name == "brevity"


def test_a_judge_is_measured_by_the_command_that_new_prints_and_is_not_tried_as_a_reward(capsys):
    out, _ = said(capsys, "new", "judge", "mine")
    commands = [shlex.split(line)[1:] for line in out.partition("next:")[2].splitlines() if line.strip()]
    assert cli.run([*commands[1], "dataset.pairs=60", "dataset.demonstrations=10", "dataset.prompts=20"]) == 0
    assert "judge=mine on dataset=orders: 20 pairs" in capsys.readouterr().out
    assert compose(*commands[2][1:]).judge.name == "mine"
    _, err = said(capsys, "try", "mine.py", status=2)
    assert "'mine' is a judge" in err
    assert "rlhf-lora evaluate plugins=[mine.py] judge=mine" in err


def test_a_name_may_be_that_of_a_file_that_lies_here(capsys, monkeypatch):
    Path("brevity.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    said(capsys, "new", "reward", "brevity", "--to", "mine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new"], "new wants a kind and a name"),
        (["new", "rewards", "x"], "did you mean 'reward'"),
        (["new", "reward", "my-reward"], "'my-reward' cannot name a plugin"),
        (["new", "reward", "class"], "'class' cannot name a plugin"),
        (["new", "reward", "length"], "reward=length is there already"),
        (["new", "optimizer", "ppo"], "optimizer=ppo is there already"),
        (["new", "reward", "random"], "reward=random is there already"),
        (["new", "judge", "random"], "'random' is a Python module"),
        (["new", "reward", "torch"], "'torch' is a Python module"),
        (["new", "reward", "x", "--data", "f"], "has no option --data"),
        (["check"], "check wants one plugin, got 0"),
        (["check", "nothing.py"], "no plugin file nothing.py"),
        (["check", "length", "--deadline", "soon"], "--deadline is soon"),
        (["try", "reward=length", "--data"], "--data wants a file"),
        (["try", "reward=length", "-n", "0"], "-n is 0"),
        (["try", "reward=length", "--data", "a", "--run", "b"], "both --data and --run"),
        (["try", "reward=length", "--data", "none.jsonl"], "none.jsonl"),
        (["try", "reward=learned"], "needs a model"),
        (["try", "reward=ai_feedback"], "asks a judge, and none is given"),
        (
            ["try", "reward=ai_feedback", "judge=scripted"],
            "needs a model (it compares with an answer of the reference)",
        ),
        (["try", "nonsense"], "try takes overrides, not 'nonsense'"),
        (["try"], "no reward is named"),
        (["--run", "x"], "has no option --run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_given_wrong_is_one_message(words, message, capsys):
    out, err = said(capsys, *words, status=2)
    assert message in err
    assert not out


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "lenght"], "no plugin named 'lenght'; did you mean 'length'"),
        (["check", "length", "targt=3"], "has no setting 'targt'; did you mean 'target'"),
        (["check", "length", "reward.target=many"], "could not be converted to Integer"),
        (["check", "length", "target=0"], "target must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_check_tells_what_is_wrong_with_a_name_or_a_setting(words, message, capsys):
    _, err = said(capsys, *words, status=2)
    assert message in err


@pytest.mark.slow
def test_a_reward_with_a_column_is_checked_on_its_fixture_or_on_given_rows(capsys):
    Path("right.py").write_text(
        "from rlhf_lora import reward\n@reward('right')\ndef right(samples, *, answer):\n"
        "    return [float(a in s.text) for a, s in zip(answer, samples)]\n"
    )
    _, _ = said(capsys, "check", "right.py", status=2)
    rows = [{"prompt": f"{i} + 1?", "completion": f"It is {i + 1}.", "answer": str(i + 1)} for i in range(3)]
    jsonl(Path("other.jsonl"), rows)
    out, _ = said(capsys, "check", "right.py", "--data", "other.jsonl")
    assert "reward=right: 20 kept, 0 broken, 1 not looked at" in out
    jsonl(Path("right.jsonl"), rows)
    said(capsys, "check", "right.py")


# --- try --------------------------------------------------------------------------------------------------------------


def test_try_prints_prompt_answer_score_parts_and_why_and_no_control_character(capsys):
    Path("parts.py").write_text(PARTS)
    rows = [
        {"prompt": "tea?\u202e", "chosen": "yes please\x1b[2J", "rejected": "no"},
        {"prompt": "q", "chosen": "a", "rejected": "bb"},
    ]
    jsonl(Path("pairs.jsonl"), rows)
    out, err = said(
        capsys, "try", "plugins=[parts.py]", "reward=parts", "reward.polite=2", "--data", "pairs.jsonl", "-n", "1"
    )
    assert not err
    for word in ("tea?\\u202e", "yes please\\x1b[2J", "1.86", "polite 1", "size 14", "said please", "rude\\x1b[31m"):
        assert word in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "2 answers" in out
    assert "the chosen answer scores higher in 1 of 1" in out


def test_try_as_json_has_every_row_and_needs_no_data(capsys):
    Path("parts.py").write_text(PARTS)
    out, _ = said(capsys, "try", "parts.py", "-n", "3", "--json")
    found = json.loads(out)
    assert found["reward"] == "parts"
    assert [row["prompt"] for row in found["rows"]][:1] == ["please bring tea soup and bread . waiter:"]
    assert found["rows"][0]["parts"] == {"polite": 0.0, "size": 28.0}
    assert len(found["rows"]) == 3


@pytest.mark.parametrize(
    ("row", "which"),
    [
        ({"prompt": "p", "completion": "a"}, ["completion"]),
        ({"prompt": "p", "completion": "a", "label": True}, ["good"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ["chosen", "rejected"]),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, ["completion"]),
    ],
)
def test_try_takes_the_answers_of_any_format(row, which, capsys):
    jsonl(Path("data.jsonl"), [row])
    out, _ = said(capsys, "try", "reward=length", "--data", "data.jsonl", "--json")
    assert [one["which"] for one in json.loads(out)["rows"]] == which


def test_data_without_answers_is_refused(capsys):
    jsonl(Path("data.jsonl"), [{"prompt": "p"}])
    _, err = said(capsys, "try", "reward=length", "--data", "data.jsonl", status=2)
    assert "1 prompts and no answers" in err


def test_a_reward_that_raises_in_try_is_one_message(capsys):
    Path("bad.py").write_text(
        "from rlhf_lora import reward\n@reward('bad')\ndef bad(samples):\n    return [1 / 0 for _ in samples]\n"
    )
    assert cli.run(["plugins", "try", "bad.py"]) != 0
    err = capsys.readouterr().err
    assert "'bad'" in err
    assert "ZeroDivisionError" in err


# --- replay -----------------------------------------------------------------------------------------------------------


def kept_run(path: Path, updates: int = 3) -> RunFolder:
    """A run of `reward=length` that kept four answers of each update, one without a score."""
    folder = RunFolder.create(path, {"reward": {"name": "length"}, "dataset": {"name": "gone"}}, {"os": "x"})
    for update in range(1, updates + 1):
        texts = ["please " * i + f"answer <b>{update}</b>" for i in range(4)]
        rows: list[dict[str, Any]] = [
            {"prompt": f"p{i}", "text": text, "tokens": [1], "logprobs": [-1.0], "finished": True, "parts": {}, "kind": "value",
             "score": float(i + update), "reason": ""} for i, text in enumerate(texts)
        ]  # fmt: skip
        rows[3] |= {"score": None, "kind": "error", "reason": "timeout"}
        folder.save_samples("policy", update, rows)
    evaluation = [
        {"prompt": "p", "policy_text": "please", "policy_score": 1.0, "reference_text": "no", "reference_score": 0.0}
    ]
    folder.save_samples("evaluation", None, evaluation)
    return folder


def test_a_replay_sets_new_scores_against_those_that_a_run_kept(capsys):
    kept_run(Path("run"))
    Path("parts.py").write_text(PARTS)
    out, err = said(capsys, "try", "plugins=[parts.py]", "reward=parts", "--run", "run", "-n", "2", "--json")
    found = json.loads(out)
    assert (found["was"], found["reward"], found["samples"], found["missing"]) == ("length", "parts", 14, 0)
    assert [row["old"] for row in found["by_update"]] == [2.0, 3.0, 4.0]  # of three; the fourth has none
    # 1 − (15 + 7 i)/100 with please, i = 1, 2, 3, and −15/100 without: mean 3/4 − (15 + 10.5)/100
    assert found["by_update"][0]["new"] == pytest.approx(0.75 - 0.255)
    assert found["by_update"][0]["parts"] == {"polite": 0.75, "size": pytest.approx(25.5)}
    assert found["held_out"] == {
        "reference": {"old": 0.0, "new": -0.02},
        "policy": {"old": 1.0, "new": pytest.approx(0.94)},
    }
    assert len(found["apart"]) == 2
    assert "14 of 14 samples are without their data row" in err
    page = Path(found["page"]).read_text()
    assert Path(found["page"]).name == "replay-parts.html"
    assert page.count("<svg") == 5  # old, new, two parts, old against new
    assert "&lt;b&gt;" in page
    assert "answer <b>" not in page
    assert "\x1b" not in page


def test_a_replay_prints_its_table_and_the_page_goes_where_it_is_wanted(capsys):
    kept_run(Path("run"), updates=1)
    out, _ = said(capsys, "try", "reward=length", "reward.target=3", "--run", "run", "--to", "pages")
    assert out.splitlines()[-1] == str(Path("pages/replay-length.html"))
    assert "length (then)" in out
    assert "correlation" in out
    assert "at update 1" in Path("pages/replay-length.html").read_text()  # one point is no line


def test_a_run_without_samples_and_columns_that_cannot_be_had_are_refused(capsys):
    RunFolder.create(Path("empty"), {"reward": {"name": "length"}}, {"os": "x"})
    assert "kept no samples" in said(capsys, "try", "reward=length", "--run", "empty", status=2)[1]
    kept_run(Path("run"))
    Path("right.py").write_text(
        "from rlhf_lora import reward\n@reward('right')\ndef right(samples, *, answer):\n    return [0.0] * len(answer)\n"
    )
    _, err = said(capsys, "try", "right.py", "--run", "run", status=2)
    assert "the columns answer are in the run's data, which cannot be read" in err


def answered(path: Path, rows: list[dict[str, Any]], stored: list[tuple[str, str]]) -> None:
    """A run on these rows of data, that kept these prompts and answers."""
    jsonl(Path("rows.jsonl"), rows)
    data = {"name": "jsonl", "path": str(Path("rows.jsonl").resolve())}
    folder = RunFolder.create(path, {"reward": {"name": "math_answer"}, "dataset": data}, {"os": "x"})
    kept = {
        "tokens": [1],
        "logprobs": [-1.0],
        "finished": True,
        "parts": {},
        "kind": "value",
        "score": 1.0,
        "reason": "",
    }
    folder.save_samples("policy", 1, [{"prompt": prompt, "text": text, **kept} for prompt, text in stored])


def test_a_prompt_that_stands_in_rows_that_differ_has_no_row_of_its_own(capsys):
    rows = [
        {"prompt": "How many?", "answer": "5", "unit": "cups"},
        {"prompt": "How many?", "answer": "7", "unit": "cups"},
        {"prompt": "How few?", "answer": "2", "unit": "cups"},
        {"prompt": "How few?", "answer": "2", "unit": "cups"},
    ]
    answered(Path("run"), rows, [("How many?", "#### 7"), ("How few?", "#### 2"), ("How few?", "#### 3")])
    stored, note = of_run(RunFolder.open(Path("run")))
    assert [one.sample.columns for one in stored] == [{"unit": "cups"}, *[{"answer": "2", "unit": "cups"}] * 2]
    assert note.startswith("1 of 3 samples are without their data row")
    assert "the prompt of 1 stands in several rows that differ" in note
    out, err = said(capsys, "try", "reward=math_answer", "--run", "run", "--json")
    found = json.loads(out)
    assert (found["samples"], found["missing"]) == (3, 1)
    assert found["by_update"][0]["new"] == pytest.approx(0.5)  # one right, one wrong, and the third is nobody's guess
    assert "1 of 3 samples are without their data row" in err
    Path("unit.py").write_text(
        "from rlhf_lora import reward\n@reward('unit')\ndef unit(samples, *, unit):\n    return [1.0 for _ in unit]\n"
    )
    out, _ = said(capsys, "try", "unit.py", "--run", "run", "--json")
    assert json.loads(out)["missing"] == 0  # what all rows of a prompt say is known


def test_columns_that_no_row_tells_are_refused(capsys):
    answered(Path("run"), [{"prompt": "p", "answer": "5"}, {"prompt": "p", "answer": "7"}], [("p", "#### 7")])
    _, err = said(capsys, "try", "reward=math_answer", "--run", "run", status=2)
    assert "wants the column 'answer'" in err


@pytest.mark.parametrize("how", [["--data", "rows.jsonl"], ["--run", "run"]])
def test_a_reward_is_closed_when_it_breaks(how, monkeypatch):
    answered(Path("run"), [{"prompt": "p", "completion": "a"}], [("p", "a")])
    Path("bad.py").write_text(
        "from rlhf_lora import reward\n@reward('bad')\ndef bad(samples):\n    return [1 / 0 for _ in samples]\n"
    )
    closed: list[str] = []
    monkeypatch.setattr(Scorer, "close", lambda self: closed.append(self.name))
    assert cli.run(["plugins", "try", "bad.py", *how]) != 0
    assert closed == ["bad"]


def test_what_never_changes_agrees_with_nothing():
    """The mean of ten times 0.1 is not 0.1: rounding is no correlation."""
    for xs, ys in (
        ([0.1] * 10, [0.1] * 10),
        ([0.7] * 10, [0.3] * 10),
        ([0.1] * 10, range(10)),
        (range(10), [0.1] * 10),
    ):
        assert replay.correlation(xs, ys) is None


def test_ranks_and_correlation_by_hand():
    assert replay.ranks([3.0, 1.0, 3.0, 2.0]) == [2.5, 0.0, 2.5, 1.0]
    assert replay.correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert replay.correlation([1, 2, 3], [1, 0, 2]) == pytest.approx(0.5)  # 1 / sqrt(2 · 2)
    assert replay.correlation([1, 1, 1], [1, 2, 3]) is None
    assert replay.correlation([1, 2], [1, 2]) is None


# --- the journey ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["ppo", "rloo", "grpo"])
def test_the_same_file_trains_under_every_optimizer_and_in_best_of_n(
    optimizer, tiny_base, tmp_path, capsys, monkeypatch
):
    """From an empty folder: new, check, try, train, and the replay of what came of it."""
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    Path("plugin").mkdir()
    monkeypatch.chdir("plugin")
    said(capsys, "new", "reward", "brevity")
    said(capsys, "check", "brevity.py")
    said(capsys, "try", "plugins=[brevity.py]", "reward=brevity", "--data", "brevity.jsonl")
    group = {"updates": 2, "prompts_per_update": 6, "minibatch_size": 8, "samples_per_prompt": 4}
    shape = [] if optimizer == "ppo" else [f"optimizer.{name}={value}" for name, value in group.items()]
    words = overrides(tiny_base, tmp_path / "run", "plugins=[brevity.py]", "reward=brevity", f"optimizer={optimizer}", *shape,
                      "evaluation.best_of_n=2")  # fmt: skip
    assert cli.run(["train", *words]) == 0
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["reward"] == "brevity"
    assert summary["best_of_n"]
    assert summary["status"] == "finished"
    capsys.readouterr()
    out, err = said(capsys, "try", "brevity.py", "--run", str(tmp_path / "run"), "--json")
    found = json.loads(out)
    assert found["correlation"] == pytest.approx(1.0)  # the same reward on the same answers
    assert not err  # every sample has its row of the data


@pytest.mark.slow
def test_a_strangers_package_is_found_through_its_entry_point(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples" / "rlhf_lora_brevity", source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--quiet",
        "--target",
    ]
    done = subprocess.run([*pip, str(tmp_path / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*words: str) -> str:
        made = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    assert "reward=brevity_words" in run("-m", "rlhf_lora", "plugins", "reward")
    assert "0 broken" in run("-m", "rlhf_lora", "plugins", "check", "brevity_words")
    assert "words over 2" in run(
        "-m", "rlhf_lora", "plugins", "try", "reward=brevity_words", "reward.target=2", "--json"
    )
    assert "passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(source / "tests"))


def test_try_gives_up_a_reward_that_hangs(capsys):
    Path("stuck.py").write_text(
        "import time\nfrom rlhf_lora import reward\n@reward('stuck')\ndef stuck(samples): time.sleep(60)\n"
    )
    _, err = said(capsys, "try", "stuck.py", "scoring.deadline=0.5", status=3)
    assert "the reward 'stuck' gave no answer within 0.5 s" in err
