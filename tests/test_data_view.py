"""What `plan` shows of the data: rows that add up, lengths against the limits, examples; on a terminal and as JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from test_plan_tokens import CHATML
from tiny import jsonl, overrides

from rlhf_lora import data_lengths, data_show, data_view, plan_view
from rlhf_lora.config import compose
from rlhf_lora.loading import load_chat
from rlhf_lora.plan import Plan, make_plan

MESSY: list[dict[str, Any]] = [
    *({"prompt": f"tea {'please ' * i}", "chosen": "sure " * (i + 1), "rejected": "no"} for i in range(60)),
    {"prompt": "", "chosen": "a", "rejected": "b"},
    {"prompt": "x", "chosen": "a", "rejected": "a"},
    {"prompt": " ", "chosen": "a", "rejected": "b"},
    *({"prompt": "", "chosen": str(i), "rejected": "b"} for i in range(4)),
]


@pytest.fixture
def plan(tiny_base, tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))

    def make(*more: str, base: Path = tiny_base) -> Plan:
        return make_plan(compose(*overrides(base, tmp_path / "run", *more)))

    return make


def read(file: Path) -> list[str]:
    return ["dataset=jsonl", f"dataset.path={file}", "reward=length"]


def printed(made: Plan, width: int = 80) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, soft_wrap=True, force_terminal=False)
    plan_view.show(made, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_row_is_used_or_named_and_they_add_up(plan, tmp_path):
    (view,) = data_view.view(plan(*read(jsonl(tmp_path / "rows.jsonl", MESSY))))
    assert view.rows == len(MESSY) == view.used + sum(reason.rows for reason in view.unused)
    assert view.gives == {"pairs": 60}
    empty, same = view.unused
    assert (empty.reason, empty.rows) == ("the prompt is empty", 6)
    assert empty.first == ("rows.jsonl, line 61", "rows.jsonl, line 63", "rows.jsonl, line 64")
    assert (same.reason, same.first) == ("chosen and rejected are the same", ("rows.jsonl, line 62",))


def test_every_dataset_and_every_test_file_is_shown(plan, tmp_path):
    main = jsonl(tmp_path / "main.jsonl", MESSY)
    test = jsonl(tmp_path / "test.jsonl", [{"prompt": "soup", "chosen": "yes", "rejected": "no"}])
    demos = jsonl(tmp_path / "demos.jsonl", [{"prompt": f"tea {i}", "completion": "sure"} for i in range(90)])
    more = [f"dataset.test_path={test}", "sft.dataset=jsonl", f"sft.dataset.path={demos}"]
    views = data_view.view(made := plan(*read(main), *more))
    assert [(v.setting, Path(v.file).name) for v in views] == [
        ("dataset", "main.jsonl"), ("dataset.test_path", "test.jsonl"), ("sft.dataset", "demos.jsonl"),
    ]  # fmt: skip
    own = views[2].goes_to
    assert own["demonstrations"] == len(made.splits.demonstrations) < 90
    assert sum(own.values()) == 90, "what is held back for judging is counted, not dropped in silence"
    assert views[1].goes_to == {"final_prompts": 1}
    assert all(view.setting in printed(made) for view in views)


def test_lengths_are_the_models_tokens_and_limits_cut_where_training_cuts(plan, tmp_path):
    made = plan(*read(jsonl(tmp_path / "rows.jsonl", MESSY)), "max_prompt_tokens=20", "rollout.max_new_tokens=7")
    chat = load_chat(made.spec)
    (view,) = data_view.view(made)
    prompts, replies, rows = view.lengths
    true = [len(chat.prompt_ids(pair.prompt)) for pair in made.data.pairs]
    assert (prompts.counted, prompts.of, prompts.longest) == (60, 60, max(true))
    assert prompts.limits[0].longer == pytest.approx(sum(n > 20 for n in true) / 60)
    (limit,) = replies.limits
    answers = [len(chat.response_ids(r)) for pair in made.data.pairs for r in (pair.chosen, pair.rejected)]
    assert (limit.setting, limit.tokens) == ("rollout.max_new_tokens", 7)
    assert limit.longer == pytest.approx(sum(n > 7 for n in answers) / 120)
    # The model takes 64: prompt (i + 1 words) and the chosen reply (i + 1 words and the end) are longer from i = 31 on.
    assert rows.limits[0].setting == "sft.max_length"
    assert rows.limits[0].longer == pytest.approx(29 / 60)
    for lengths, values in ((prompts, true), (replies, answers)):
        assert sum(count for _, count in lengths.bins) == lengths.counted
        assert {one.tokens for one in lengths.limits} <= {upto for upto, _ in lengths.bins}, "a limit is an edge"
        upto = [sum(n <= edge for n in values) for edge, _ in lengths.bins]
        assert [count for _, count in lengths.bins] == [a - b for a, b in zip(upto, [0, *upto], strict=False)]


def test_sft_leaves_out_by_the_reply_to_imitate_and_a_reward_model_by_the_longest(plan, tmp_path):
    rows = [{"prompt": f"tea {i}", "chosen": "sure", "rejected": "no " * (40 if i < 30 else 1)} for i in range(120)]
    file = jsonl(tmp_path / "rows.jsonl", rows)
    made = plan("dataset=jsonl", f"dataset.path={file}", "sft.max_length=20", "reward_model.max_length=20")
    limits = {limit.setting: limit.longer for limit in data_view.view(made)[0].lengths[2].limits}
    assert limits == {"sft.max_length": 0.0, "reward_model.max_length": 0.25}


def test_rows_that_no_stage_of_the_run_gets_are_told(plan, tmp_path):
    file = jsonl(tmp_path / "rows.jsonl", [{"prompt": f"tea {i}", "chosen": "a", "rejected": "b"} for i in range(300)])
    (view,) = data_view.view(plan("dataset=jsonl", f"dataset.path={file}", "reward=length"))
    judged = view.goes_to["tuning_prompts"] + view.goes_to["final_prompts"]
    trained = view.goes_to["demonstrations"] + view.goes_to["prompts"]
    assert view.goes_to["in shares that no stage of this run reads"] == 300 - judged - trained > 100
    (view,) = data_view.view(plan("dataset=jsonl", f"dataset.path={file}"))
    assert "in shares that no stage of this run reads" not in view.goes_to


def test_one_huge_text_does_not_end_the_sample(plan, tmp_path):
    rows = [{"prompt": f"tea {i}", "chosen": "a " * (300_000 if i == 7 else 1), "rejected": "b"} for i in range(100)]
    made = plan(*read(jsonl(tmp_path / "rows.jsonl", rows)))
    replies = data_view.view(made)[0].lengths[1]
    assert (replies.counted, replies.longest) == (200, 300_001)


def test_more_than_half_too_long_is_said_before_training_refuses_it(plan, tmp_path):
    made = plan(*read(jsonl(tmp_path / "rows.jsonl", MESSY)), "sft.max_length=20")
    assert "more than half" in printed(made, 200)


def test_three_examples_are_as_the_model_sees_them(plan, tmp_path, tiny_qwen2):
    import shutil

    folder = tmp_path / "chatty"
    shutil.copytree(tiny_qwen2, folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    talk = [{"prompt": [{"role": "user", "content": f"tea {i}"}], "completion": [{"role": "assistant", "content": "sure"}]}
            for i in range(60)]  # fmt: skip
    made = plan(*read(jsonl(tmp_path / "talk.jsonl", talk)), base=folder)
    chat = load_chat(made.spec)
    (view,) = data_view.view(made)
    shown = [made.data.demonstrations[i].prompt for i in (0, 30, 59)]
    assert [example.prompt for example in view.examples] == [chat.rendered(prompt) for prompt in shown]
    assert [example.replies for example in view.examples] == [{"reply": "sure<|im_end|>"}] * 3


def test_conversations_that_the_template_refuses_are_counted_with_its_words(plan, tmp_path, tiny_qwen2):
    import shutil

    folder = tmp_path / "strict"
    shutil.copytree(tiny_qwen2, folder)
    (folder / "chat_template.jinja").write_text(
        "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}x"
    )
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": [*(said if i < 5 else []), {"role": "user", "content": f"tea {i}"}]} for i in range(60)]
    made = plan(*read(jsonl(tmp_path / "talk.jsonl", rows)), base=folder)
    assert data_view.view(made)[0].refused == {"one turn only": 5}
    assert "refuses 5 of the prompts counted: one turn only" in printed(made)


def test_nothing_in_a_file_can_move_the_cursor_or_turn_text_round(plan, tmp_path, tiny_qwen2):
    nasty = "\x1b[2J\x07\u202eevil\u2066\x9b31m\r[red]bold[/] \\x1b 你好 🍕 é"
    rows = [{"prompt": f"{nasty} {i}", "chosen": nasty, "rejected": "no", nasty: 1} for i in range(60)]
    rows.append({"prompt": "", "chosen": nasty, "rejected": "no", nasty: 1})
    made = plan(*read(jsonl(tmp_path / "nasty.jsonl", rows)), base=tiny_qwen2)
    text = printed(made, 400)
    assert not {c for c in text if unicodedata.category(c) in data_show.UNSAFE} - {"\n"}
    assert r"\x1b[2J\x07\u202eevil\u2066\x9b31m\r[red]bold[/] \\x1b 你好 🍕 é" in text


@pytest.mark.parametrize("text", ["", "short", "x" * 60])
def test_short_text_is_shown_whole(text):
    assert data_show.without_middle(text, 50) == text


def test_long_text_is_shortened_in_the_middle():
    shown = data_show.without_middle("".join(chr(97 + i // 100) for i in range(1000)), 100)
    assert (shown[:60], shown[-40:]) == ("a" * 60, "j" * 40)
    assert "… 900 characters …" in shown


def test_json_carries_the_same_facts(plan, tmp_path):
    made = plan(*read(jsonl(tmp_path / "rows.jsonl", MESSY)))
    (data,) = json.loads(json.dumps(plan_view.as_json(made)))["data"]
    assert (data["rows"], data["used"], data["format"]) == (67, 60, "preference (prompt, chosen, rejected: text)")
    assert data["unused"][0] == {
        "reason": "the prompt is empty", "rows": 6,
        "first": ["rows.jsonl, line 61", "rows.jsonl, line 63", "rows.jsonl, line 64"],
    }  # fmt: skip
    assert [lengths["what"] for lengths in data["lengths"]] == ["prompts", "replies", "rows"]
    assert len(data["examples"]) == 3
    assert data["counted_as"] == "tokens of the model's own tokenizer"


@pytest.mark.slow
def test_a_large_file_is_sampled_the_same_way_each_time_and_says_so(plan, tmp_path):
    rows = [{"prompt": f"tea {i}", "chosen": "word " * 400, "rejected": "no"} for i in range(5000)]
    made = plan(*read(jsonl(tmp_path / "large.jsonl", rows)))
    started = time.process_time()
    (view,) = data_view.view(made)
    assert time.process_time() - started < 2
    assert view.lengths[0].of == 5000
    assert 100 < view.lengths[1].counted <= 2 * data_lengths.SAMPLE
    assert f"a sample of {view.lengths[0].counted:,} of 5,000" in printed(made)
    assert data_view.view(made) == [view]


@pytest.mark.slow
def test_plan_of_a_file_loads_nothing_heavy(plan, tmp_path, tiny_qwen2):
    """With a chat template too: Jinja and the tokenizer's own library do it."""
    import shutil

    folder = tmp_path / "chatty"
    shutil.copytree(tiny_qwen2, folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    code = (
        "import sys; from rlhf_lora import cli; status = cli.run(['plan', *sys.argv[1:]]); "
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & sys.modules.keys(); "
        "sys.exit(status or (str(heavy) if heavy else 0))"
    )
    words = overrides(folder, tmp_path / "run", *read(jsonl(tmp_path / "rows.jsonl", MESSY)), "model.template=chat")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>user" in done.stdout
