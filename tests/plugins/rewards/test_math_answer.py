"""The final answer: found in a text, read as people write numbers, and compared as mathematics."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from rlhf_lora.plugins.rewards import math_answer, math_text
from tiny import few

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import build, to_config
from rlhf_lora.reward_calls import call_seconds
from rlhf_lora.stages.scoring import Scorer


@pytest.fixture(scope="module")
def opened():
    reward = build("reward", {"name": "math_answer", "seconds": 60}).open(Context())  # this machine may be busy
    yield reward
    reward.close()


def judged(opened, reference: object, text: str) -> Score:
    (score,) = Scorer(opened, "math_answer")([Sample("asked", text, columns={"answer": reference})])
    return score


# --- plain numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("72", "72"), (" 72. ", "72"), ("-5", "-5"), ("−5", "-5"), ("+5", "5"), ("- 5", "-5"), ("007", "007"),
        ("1,234", "1234"), ("1,234,567.50", "1234567.50"), (".5", ".5"), ("1{,}234", "1234"), ("12,34", None),
        ("$5", "5"), ("-$5.20", "-5.20"), ("\\$5", "5"), ("€5", "5"), ("$72$", "72"), ("**72**", "72"),
        ("72 clips", "72"), ("12cm", "12"), ("12 cm^2", "12"), ("5 km/h", "5"), ("12\\text{ cm}", "12"), ("90°", "90"),
        ("5x", None), ("x", None), ("", None), ("5 + 3", None), ("5 apples and 3 pears", None), ("1.2.3", None),
        ("3/4", "3/4"), ("\\frac{3}{4}", "3/4"), ("-\\dfrac34", "-3/4"), ("5 1/2", "11/2"), ("1/0", None),
        ("50%", "50%"), ("50\\%", "50%"), ("12.5 percent", "12.5%"), ("1e3", "1000"), ("1.5E-3", "0.0015"),
        ("9" * 5000, None), ("5 million", "5000000"), ("3 dozen", "36"), ("2 thousand", "2000"), ("5 hundred", "500"),
        ("1.5 Billion dollars", "1500000000.0"), ("2 trillion", "2000000000000"), ("5-million", "5000000"),
        ("2 hundred thousand people", "200000"), ("1/2 million", "1000000/2"), ("5 millionaires", "5"), ("5M", None),
        ("5 and a half million", None), ("7" * 60 + " million", "7" * 60 + "000000"),
    ],
)  # fmt: skip
def test_a_plain_number_is_read_without_what_stands_around_it(written, number):
    assert math_text.plain_number(written) == number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 24 + 48 = 72\n#### 72", "72"),
        ("#### 72\nor rather\n#### 73", "73"),
        ("#### 72 ####", "72 ####"),
        ("#### Step 1\nhalf of 48 is 24", "24"),  # a heading of Markdown
        ("#### Step 1", "Step 1"),  # in the last line: a wrong answer
        ("\\boxed{72} and then 5", "72"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2", "1"),
        ("#### 5\n\\boxed{6}", "6"),
        ("<answer>72</answer> 5", "72"),
        ("<answer>\\boxed{72}</answer>", "72"),
        ("<think>\\boxed{3}</think> 72", "72"),
        ("<think>\\boxed{3}</think> done", None),
        ("The answer is 72, since 3 * 24 = 72 and 5 is not.", "72"),
        ("The answer is 24 * 3 = 72.", "72"),
        ("Answer: **72**", "72"),
        ("the answer is <<24*3=72>>72 clips", "72"),
        ("final answer:\n72", "72"),
        ("24 answers * 2 points/answer = 48 points, and 16 make 64", "64"),
        ("It costs $3 and then $2, so $5.", "$5"),
        ("It is $\\sqrt{2}$.", "\\sqrt{2}"),
        ("\\[ x = \\frac{1}{2} \\]", "x = \\frac{1}{2}"),
        ("3 - 5 = -2", "-2"), ("2-3", "3"), ("the result is 2x", None), ("12:30", "12:30"), ("1,234 clips", "1,234"),
        ("grew by 12.5 %", "12.5 %"), ("2^3", "2^3"), ("- 5 apples", "5"),
        ("", None), ("no idea", None), ("\\boxed{}", None), ("\ud800", None),
        ("The answer is 12. Wait, the answer is 13.", "13"), ("The answer is 12. The answer is", "12"),
        ("So the answer is \\frac{1}{2}.", "\\frac{1}{2}"), ("The answer is \\sqrt{2}", "\\sqrt{2}"),
        ("The answer is 2\\pi.", "2\\pi"), ("The answer is 2x + 3", "2x + 3"), ("The answer is A.", "A"),
        ("The answer is 2xy + 3", "2xy + 3"), ("The answer is (2, 3).", "(2, 3)"), ("The answer is 5 million.", "5 million"),
        ("The answer is 72 (24 + 48).", "72"), ("(the answer is 72)", "72"), ("The answer is **72.**", "72"),
        ("The answer is 72 \u2713", "72"), ("The answer is a 72", "72"), ("The answer is 12cm long", "12"),
        ("The answer is $5$ million", "5 million"), ("so it is 2\\pi or \\sqrt{2}", None), ("It grew to 5 million.", "5 million"),
    ],
)  # fmt: skip
def test_the_final_answer_is_found(text, answer):
    assert math_text.final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 5000, "$$a" * 7000, "\\[" * 9000, "<answer>" * 3000, "answer is " * 2000, "1," * 10000, "9" * 20000, "$a " * 7000,
     "#### 1\n" * 3000, "{" * 20000, "#### a" + " " * 19000 + "b", "\n" * 20000, "answer" + " " * 19000 + "x",
     "1" + " " * 19000 + "x", "#### 1\n" + " " * 19000, "1 dozen" * 2800, "1.1" * 6600 + "x"],
    ids=lambda text: text[:9].strip(),
)  # fmt: skip
def test_no_text_takes_long_to_read(text):
    started = time.process_time()
    math_text.final_answer(text)
    assert time.process_time() - started < 2  # measured: 0.3 s at most; without limits, 34 s


@pytest.mark.parametrize(
    "text", ["#### a" + " " * 20000 + "b", "\n" * 20000, "answer" + " " * 20000], ids=["spaces", "lines", "answer"]
)
def test_white_space_is_read_once(text):
    started = time.process_time()
    math_text.final_answer(text)
    assert time.process_time() - started < 0.3  # it was 5 s


# --- judging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ("72", "#### 72", 1), ("72", "#### 73", 0), ("x #### 1,234", "so 1234 clips", 1), (72, "\\boxed{72}", 1), (7.5, "7.50", 1),
        ("-3", "3", 0), ("3", "-3", 0), ("72 clips", "72", 1), ("3/4", "0.75", 1), ("3/4", "\\boxed{\\frac{3}{4}}", 1),
        ("5 1/2", "5.5", 1), ("50%", "0.5", 1), ("50", "50\\%", 1), ("1/8", "12.5%", 1), ("1/3", "0.333333", 1), ("1/3", "0.33", 0),
        ("0.0000001", "0.0000002", 0), ("0", "1e-9", 0), ("0.3", "0.30000000000000004", 1), ("1000000", "1000001", 0),
        ("\\sqrt{2}", "It is $\\sqrt2$.", 1), ("\\frac{\\sqrt{2}}{2}", "\\boxed{\\frac{1}{\\sqrt{2}}}", 1),
        ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}", 1),
        ("x+1", "\\boxed{1+x}", 1), ("x+1", "\\boxed{x-1}", 0), ("8", "2^3", 1), ("-\\frac{3}{4}", "-0.75", 1), ("x = 7", "7", 1),
        ("5", "#### 5 million", 0), ("5000000", "The answer is 5 million.", 1), ("36", "3 dozen", 1), ("3", "3 dozen", 0),
        ("2", "\\boxed{2 \\text{ thousand}}", 0), ("13", "The answer is 12. Wait, the answer is 13.", 1),
        ("12", "The answer is 12. Wait, the answer is 13.", 0), ("1/2", "So the answer is \\frac{1}{2}.", 1),
        ("1", "So the answer is \\frac{1}{2}.", 0), ("\\sqrt{2}", "The answer is \\sqrt{2}", 1),
        ("2", "The answer is \\sqrt{2}", 0), ("2", "The answer is 2 hours 30 minutes.", 0),
        ("30", "The answer is 2 hours and 30 minutes", 0), ("2", "The answer is 2 hours", 1),
        ("2", "The answer is 2\\pi", 0), ("2\\pi", "The answer is 2\\pi", 1), ("2x+3", "The answer is 2x + 3", 1),
        ("3", "The answer is 2x + 3", 0), ("A", "The answer is A.", 1), ("B", "The answer is A.", 0),
        ("\\{1, 2\\}", "\\boxed{\\{2, 1\\}}", 1), ("90^\\circ", "\\boxed{90^{\\circ}}", 1), ("1", "\\boxed{\\frac{1}{0}}", 0),
    ],
)  # fmt: skip
def test_answers_are_compared_as_mathematics(opened, reference, text, value):
    assert judged(opened, reference, text).value == value


def test_no_answer_is_a_wrong_answer_and_says_so(opened):
    assert judged(opened, "72", "I do not know") == Score(0.0, reason="no answer")
    assert judged(opened, "\\sqrt{2}", "") == Score(0.0, reason="no answer")
    assert judged(opened, "72", "\\boxed{banana}") == Score(0.0, reason="'banana' is no mathematics")
    assert (
        judged(opened, "72", "\\boxed{" + "7" * 201 + "}").reason == "the final answer has 201 characters; 200 are read"
    )


@pytest.mark.parametrize(
    "reference",
    ["Paris", "\\text{Paris}", "", None, True, [72], "#### ", "1/0", "\\frac{1}{0}", "7" * 201,
     "2 hours 30 minutes", "Paris in 2024", "It is 72", "The answer is 2 hours 30 minutes", "72 or 73"],
)  # fmt: skip
@pytest.mark.parametrize("text", ["72", "", "#### 30", "2024"])
def test_a_row_whose_own_answer_cannot_be_read_gives_no_score(opened, reference, text):
    score = judged(opened, reference, text)
    assert (score.value, score.kind) == (None, "unreadable")
    assert "has no one answer in it" in score.reason


def test_it_wants_its_column(opened):
    with pytest.raises(DataError, match="wants the column 'answer'"):
        Scorer(opened, "math_answer")([Sample("p", "72")])
    other = build("reward", {"name": "math_answer", "column": "solution"})
    assert Scorer(other, "math_answer")([Sample("p", "72", columns={"solution": "72"})])[0].value == 1


def test_it_works_off_the_main_thread(opened):
    found: list[Score] = []
    thread = threading.Thread(target=lambda: found.extend(judged(opened, r, "\\boxed{\\sqrt4}") for r in ("2", "3")))
    thread.start()
    thread.join()
    assert [score.value for score in found] == [1, 0]


def test_a_comparison_that_never_ends_gives_no_score_and_the_next_one_does(monkeypatch, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import sys, time\nprint('\"ready\"', flush=True)\nfor line in sys.stdin:\n    time.sleep(60)\n")
    reward = build("reward", {"name": "math_answer", "seconds": 0.3}).open()
    with monkeypatch.context() as patch:
        patch.setattr(math_answer.math_compare, "__file__", str(slow))
        started = time.perf_counter()
        score = judged(reward, "x+1", "\\boxed{1+x}")
        assert time.perf_counter() - started < 10
    assert (score.value, score.kind) == (None, "error")
    assert "not done after 0.3 s" in score.reason
    assert judged(reward, "72", "72").value == 1
    object.__setattr__(reward._process, "seconds", 60)
    assert judged(reward, "x+1", "\\boxed{1+x}").value == 1
    reward.close()
    reward.close()


ORPHANING = """
import threading, time
from rlhf_lora.plugins.rewards.math_answer import ComparingProcess
process = ComparingProcess({seconds})
threading.Thread(target=lambda: process.compare("1", "{asked}"), daemon=True).start()
while process._process is None:
    time.sleep(0.05)
time.sleep({wait})
print(process._process.pid, flush=True)
time.sleep(60)
"""


def test_many_endless_comparisons_are_no_reward_that_hangs():
    opened = build("reward", {"name": "math_answer", "seconds": 2.0}).open()
    assert call_seconds(opened, 100) >= 200
    opened.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux lists them")
@pytest.mark.parametrize(
    ("seconds", "asked"), few([(3, "3^{99999999}"), (10, "9^{9^{9^9}}")], 1), ids=["one step", "tower"]
)
def test_the_process_that_compares_ends_when_the_run_is_killed(seconds, asked):
    program = ORPHANING.format(seconds=seconds, asked=asked, wait=2)
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = Path("/proc", run.stdout.readline().strip())
    assert alive(child)
    run.kill()
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 60  # at most `seconds` and five more, on a machine that may be busy
    while alive(child) and time.monotonic() < until:
        time.sleep(0.1)
    left = alive(child)
    if left:
        os.kill(int(child.name), signal.SIGKILL)
    assert not left


def alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"  # dead, and not asked for yet
    except OSError:
        return False


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print('\"ready\"', flush=True)\ninput()", "the process that compares ended"),
        (
            "print('\"ready\"', flush=True)\ninput()\nprint('\"failed: MemoryError: \"', flush=True)\ninput()",
            "MemoryError",
        ),
        ("raise SystemExit(1)", "the process that compares ended"),
    ],
)
def test_a_comparison_that_fails_says_nothing_about_the_answer(monkeypatch, tmp_path, program, says):
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(math_answer.math_compare, "__file__", str(tmp_path / "program.py"))
    reward = build("reward", {"name": "math_answer", "seconds": 30}).open()
    score = judged(reward, "x+1", "\\boxed{1+x}")
    reward.close()
    assert (score.value, score.kind) == (None, "error")
    assert says in score.reason


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(math_answer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package math-verify[\s\S]*pip install 'rlhf-lora\[math\]'"):
        build("reward", {"name": "math_answer"})


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"seconds": float("inf")}, {"column": " "}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        build("reward", {"name": "math_answer", **bad})


def test_it_is_rebuilt_equal_and_scores_nothing_as_nothing():
    reward = build("reward", {"name": "math_answer"})
    assert build("reward", to_config(reward)) == reward
    assert Scorer(reward, "math_answer")([]) == []


# --- real data --------------------------------------------------------------------------------------------------------


def gsm8k() -> list[str]:
    file = Path(os.environ["RLHF_LORA_DATA"]) / "gsm8k/train.jsonl.gz"
    return [json.loads(line)["answer"] for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


WAYS = {
    "as in the file": lambda body, number: f"{body}#### {number}",
    "boxed": lambda body, number: f"{body}So it is \\boxed{{{number}}}.",
    "with commas and currency": lambda body, number: f"{body}The answer is ${number:,}, as asked.",
    # some say "the answer is" on the way, which counts for more than a number behind it
    "a bare number": lambda body, number: f"{body.replace('answer', 'count')}That makes {number}",
}


@pytest.mark.skipif("RLHF_LORA_DATA" not in os.environ, reason="RLHF_LORA_DATA names no data folder")
@pytest.mark.parametrize("way", WAYS)
def test_gsm8k_references_score_1_and_answers_off_by_one_score_0(way, opened):
    rows = gsm8k()
    assert len(rows) == 7473
    for offset, value in ((0, 1.0), (1, 0.0), (-1, 0.0)):
        samples = []
        for row in rows:
            body, _, number = row.rpartition("#### ")
            text = WAYS[way](body, int(number.replace(",", "")) + offset)
            samples.append(
                Sample("asked", row if way == "as in the file" and not offset else text, columns={"answer": row})
            )
        started = time.perf_counter()
        scores = Scorer(opened, "math_answer")(samples)
        print(f"{way}, off by {offset}: {time.perf_counter() - started:.1f} s")
        assert Counter(score.value for score in scores) == {value: 7473}
