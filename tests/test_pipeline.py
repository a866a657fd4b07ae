"""Whole runs on a tiny base: what they leave behind, what they reuse, and where they can start."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import jsonl, overrides

from rlhf_lora import cli
from rlhf_lora.adapter_stages import StageRecords
from rlhf_lora.run_folder import RunFolder

SMALL = ("optimizer.updates=2", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
         "rollout.max_new_tokens=5", "evaluation.prompts=4")  # fmt: skip


def train(base: Path, run: Path, *more: str) -> RunFolder:
    small = SMALL if "optimizer=dpo" not in more else SMALL[4:]
    assert cli.run(["train", *overrides(base, run, *small, *more)]) == 0
    return RunFolder(run)


@pytest.fixture(scope="module")
def learned(tiny_base, tmp_path_factory) -> RunFolder:
    """SFT → reward model → PPO, everything trained anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        return train(tiny_base, tmp_path_factory.mktemp("learned") / "run")


def test_the_run_folder_is_the_last_line_of_stdout_and_figures_come_before(tiny_base, tmp_path, capsys):
    train(tiny_base, tmp_path / "run", "reward=length", "reward.target=3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "run")
    assert any(line.startswith("gold: wins") for line in lines)
    assert any(line.startswith("reward=length: wins") for line in lines)


def test_a_run_leaves_what_is_promised(learned):
    for name in (
        "config.yaml",
        "versions.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "README.md",
        "samples/evaluation.parquet",
        "samples/policy-000001.parquet",
        "adapters/reward/reward.json",
        *(
            f"adapters/{role}/adapter_{part}"
            for role in ("sft", "reward", "policy")
            for part in ("config.json", "model.safetensors")
        ),
    ):
        assert (learned.path / name).is_file(), name


def test_the_summary_has_the_promised_keys(learned):
    summary = learned.summary
    assert (summary["status"], summary["optimizer"], summary["reward"], summary["seed"]) == (
        "finished",
        "ppo",
        "learned",
        0,
    )
    for part in ("policy", "gold"):
        assert {"score_mean", "score_mean_reference", "win_rate_vs_reference", "win_rate_ci95"} <= summary[part].keys()
    assert "kl_to_reference" in summary["policy"]
    assert {"accuracy", "accuracy_ci95", "pairs", "length_baseline", "accuracy_where_shorter_chosen"} <= summary[
        "reward_model"
    ].keys()
    assert {"sft", "reward_model", "rollout", "score", "update", "total"} <= summary["seconds"].keys()
    assert (summary["abstained"], summary["errors"], summary["reused"]) == (0, 0, [])
    assert summary["peak_memory_gib"] > 0


def test_metrics_are_flat_rows_of_finite_numbers_in_the_promised_names(learned):
    text = (learned.path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [list(row)[:3] for row in rows] == [["stage", "step", "time_s"]] * len(rows)
    assert {row["stage"] for row in rows} == {"sft", "reward_model", "policy"}
    policy = [row for row in rows if row["stage"] == "policy"]
    assert [row["step"] for row in policy] == [1, 2]
    wanted = {
        "objective/kl",
        "objective/scores",
        "objective/rlhf_reward",
        "objective/non_score_reward",
        "objective/entropy",
        "policy/ratio",
        "policy/clipfrac",
        "policy/approxkl",
        "loss/policy",
        "loss/value",
        "lr",
        "episode",
    }
    assert wanted <= policy[0].keys()
    assert abs(policy[0]["objective/kl"]) < 1e-4  # against SFT, which the policy starts from


def test_samples_hold_tokens_logprobs_values_and_scores(learned):
    rows = learned.read_samples("policy", 1)
    assert len(rows) == 6
    for row in rows:
        n = len(row["tokens"])
        assert n == len(row["logprobs"]) == len(row["ref_logprobs"]) == len(row["values"]) == len(row["advantages"])
        assert row["score"] is not None
        assert row["kind"] == "value"


def test_the_saved_configuration_says_what_was_really_used(learned):
    config = learned.config
    assert config["optimizer"]["adamw"]["lr"] > 0
    assert config["hardware"]["device"] == "cpu"
    assert config["run_dir"] == str(learned.path)


# --- reuse ------------------------------------------------------------------------------------------------------------


def adapter(run: RunFolder, name: str) -> bytes:
    return (run.adapter(name) / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_stages_with_the_same_inputs_are_reused_and_say_so(tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    one = train(tiny_base, tmp_path / "one")
    capsys.readouterr()
    other = train(tiny_base, tmp_path / "other", "optimizer.beta=0.2")
    assert "reused" in capsys.readouterr().err
    assert other.summary["reused"] == ["sft", "reward_model"]
    for name in ("sft", "reward"):
        assert adapter(one, name) == adapter(other, name)
    assert adapter(one, "policy") != adapter(other, "policy")
    assert other.summary["reward_model"] == one.summary["reward_model"]
    plain = [[{k: v for k, v in row.items() if k != "time_s"} for row in run.metrics("sft")] for run in (one, other)]
    assert plain[0] == plain[1] != []
    # A damaged entry is trained again.
    (cached,) = (tmp_path / "cache").glob("stages/sft-*/adapter/adapter_model.safetensors")
    cached.unlink()  # it may be one file with the run's, under two names
    cached.write_bytes(b"")
    damaged = train(tiny_base, tmp_path / "damaged", "optimizer.beta=0.3", "stages=[sft]")
    assert damaged.summary["reused"] == []
    assert adapter(damaged, "sft") == adapter(one, "sft")


@pytest.mark.slow
def test_training_anew_gives_the_same_adapters(learned, tiny_base, tmp_path):
    again = train(tiny_base, tmp_path / "run", "cache=false")
    assert again.summary["reused"] == []
    for name in ("sft", "reward", "policy"):
        assert adapter(again, name) == adapter(learned, name)


# --- other beginnings and ends ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_can_start_from_someones_sft_and_reward_model(learned, tiny_base, tmp_path):
    run = train(
        tiny_base, tmp_path / "run", f"model.adapter={learned.path}", "reward=learned", f"reward.path={learned.path}"
    )
    assert {row["stage"] for row in run.metrics()} == {"policy"}
    assert not run.adapter("sft").exists()
    assert abs(run.metrics("policy")[0]["objective/kl"]) < 1e-4  # the reference is that SFT, not the bare base
    rows = [[(r["prompt"], r["tokens"]) for r in f.read_samples("policy", 1)] for f in (run, learned)]
    assert rows[0] == rows[1]  # so the first rollout is the same
    scores = [[r["score"] for r in f.read_samples("policy", 1)] for f in (run, learned)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.slow
def test_stages_alone(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path / "run", "stages=[sft,reward_model]")
    assert {p.name for p in run.adapters.iterdir()} == {"sft", "reward"}
    assert run.summary["status"] == "finished"
    assert "policy" not in run.summary


@pytest.mark.slow
def test_what_is_too_long_for_a_use_is_counted_in_the_summary(tiny_base, tmp_path):
    run = train(
        tiny_base, tmp_path / "run", "reward=length", "max_prompt_tokens=9", "optimizer.ptx=0.1", "sft.max_length=18"
    )
    assert run.summary["too_long"].keys() == {"prompts", "evaluation prompts", "demonstrations"}
    assert all(count > 0 for count in run.summary["too_long"].values())


@pytest.mark.slow
def test_a_stage_that_is_taken_from_the_cache_twice_has_its_metrics_once(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    whole = train(tiny_base, tmp_path / "one", "reward=length")
    keep = StageRecords.keep

    def killed(self: StageRecords, stage: str, record: Any) -> None:
        if stage == "sft" and record.get("reused"):
            raise KeyboardInterrupt
        keep(self, stage, record)

    with monkeypatch.context() as patch:
        patch.setattr(StageRecords, "keep", killed)
        assert cli.run(["train", *overrides(tiny_base, tmp_path / "two", *SMALL, "reward=length")]) == 130
    again = train(tiny_base, tmp_path / "two", "reward=length")
    assert [row["step"] for row in again.metrics("sft")] == [row["step"] for row in whole.metrics("sft")]


def test_dpo_end_to_end(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path / "run", "optimizer=dpo", "optimizer.batch_size=8")
    assert {row["stage"] for row in run.metrics()} == {"sft", "policy"}
    assert "rewards/margins" in run.metrics("policy")[0]
    assert {"policy", "gold"} <= run.summary.keys()
    assert run.summary["optimizer"] == "dpo"
    assert "kl_to_reference" in run.summary["policy"]
    assert {"accuracy", "gold_accuracy"} <= run.summary["implicit_reward"].keys()
    assert "score_mean" not in run.summary["policy"]  # no reward model was trained: nothing is faked
    assert adapter(run, "policy") != adapter(run, "sft")


@pytest.mark.slow
def test_ppo_without_sft_takes_the_bare_base_as_reference(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path / "run", "stages=[policy]", "reward=length")
    assert abs(run.metrics("policy")[0]["objective/kl"]) < 1e-4
    assert not run.adapter("sft").exists()


@pytest.mark.slow
def test_new_adapters_follow_from_the_seed_and_not_from_what_was_drawn_before(tiny_base, tmp_path):
    import random

    import torch

    runs = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        random.seed(100 + i)
        run = train(
            tiny_base, tmp_path / str(i), "stages=[policy]", "reward=length", f"seed={seed}", "optimizer.updates=1"
        )
        runs.append(adapter(run, "policy"))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["optimizer.value=trunk"],
        *(
            pytest.param([one], marks=pytest.mark.slow)
            for one in (
                "model.gradient_checkpointing=true",
                "rollout=hf",
                "model.load_in_4bit=false",
                "model.dtype=bfloat16",
                "optimizer.samples_per_prompt=2",
            )
        ),
    ],
    ids=lambda more: more[0],
)
def test_the_loop_runs_in_every_mode(more, tiny_base, tmp_path):
    run = train(tiny_base, tmp_path / "run", "stages=[policy]", "reward=orders_gold", *more)
    first = run.metrics("policy")[0]
    limit = 0.02 if "bfloat16" in more[0] else 1e-4
    assert first["policy/first_ratio_error"] < limit
    assert abs(first["objective/kl"]) < 10 * limit


@pytest.mark.slow
def test_qwen2_runs_end_to_end(tiny_qwen2, tmp_path):
    run = train(tiny_qwen2, tmp_path / "run", "dataset.pairs=60", "dataset.demonstrations=60")
    assert run.metrics("policy")[0]["policy/first_ratio_error"] < 1e-4
    assert run.summary["status"] == "finished"


@pytest.mark.slow
def test_the_embedded_base_is_built_once_and_cached(tmp_path, monkeypatch, capsys):
    import functools

    from rlhf_lora import derive

    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(derive, "BaseSettings", functools.partial(derive.BaseSettings, steps=12, batch=8))
    for name in ("one", "other"):
        given = [
            o
            for o in overrides(Path(), tmp_path / name, *SMALL, "reward=orders_gold", "stages=[policy]")
            if "model.path" not in o
        ]
        assert cli.run(["train", *given]) == 0
    assert len(list((tmp_path / "cache" / "bases").glob("orders-*"))) >= 1
    assert "base" not in RunFolder(tmp_path / "one").summary["reused"]
    assert "base" in RunFolder(tmp_path / "other").summary["reused"]


TEN_LINES = '''\
"""Rewards short answers that name the thing asked for."""
from rlhf_lora import reward


@reward("brevity")
class Brevity:
    target: int = 3

    def score(self, samples):
        return [-abs(len(s.text.split()) - self.target) for s in samples]
'''


@pytest.mark.slow
def test_a_file_of_ten_lines_trains_from_another_folder(tiny_base, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "brevity.py").write_text(TEN_LINES)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = train(tiny_base, Path("run"), "plugins=[brevity.py]", "reward=brevity", "reward.target=2", "stages=[policy]")
    rows = RunFolder(tmp_path / "elsewhere" / "run").read_samples("policy", 1)
    assert [row["score"] for row in rows] == [-abs(len(row["text"].split()) - 2) for row in rows]
    assert run.config["reward"] == {"name": "brevity", "target": 2}
    source = (tmp_path / "elsewhere" / "brevity.py").read_bytes()
    assert run.versions["inputs"]["the plugin reward=brevity"] == hashlib.sha256(source).hexdigest()


@pytest.mark.slow
def test_columns_of_a_file_reach_the_reward(tiny_base, tmp_path):
    (tmp_path / "answers.py").write_text(
        "from rlhf_lora import reward\n@reward('answers')\ndef answers(samples, *, answer, weight: float = 2.0):\n"
        "    return [weight * float(a) for a in answer]\n"
    )
    path = jsonl(tmp_path / "data.jsonl", [{"prompt": f"please bring tea {i}", "answer": i} for i in range(80)])
    run = train(
        tiny_base, tmp_path / "run", f"plugins=[{tmp_path / 'answers.py'}]", "reward=answers", "reward.weight=3.0",
        "dataset=jsonl", f"dataset.path={path}",
    )  # fmt: skip
    for row in run.read_samples("policy", 1):
        assert row["score"] == 3.0 * float(row["prompt"].rpartition(" ")[2])


def stopping(tmp_path: Path, name: str, body: str) -> list[str]:
    head = "from rlhf_lora import Score, reward\ncalls = []\n"
    text = f"{head}@reward('{name}')\ndef f(samples):\n    calls.append(1)\n    {body}\n"
    (tmp_path / "stops.py").write_text(text)
    return [f"plugins=[{tmp_path / 'stops.py'}]", f"reward={name}", "stages=[policy]", "checkpoint_every=100"]


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        pytest.param(
            "gone",
            "return [Score.none('server gone', 'error') if len(calls) > 2 else 1.0 for s in samples]",
            "server gone",
            marks=pytest.mark.slow,
        ),
        ("raises", "return [1 / (len(calls) < 3) for s in samples]", "'raises' raised ZeroDivisionError"),
    ],
    ids=["no scores", "an exception"],
)
def test_a_reward_that_fails_half_way_stops_the_run_with_a_checkpoint(name, body, told, tiny_base, tmp_path, capsys):
    code = cli.run(["train", *overrides(tiny_base, tmp_path / "run", *SMALL, *stopping(tmp_path, name, body))])
    captured = capsys.readouterr()
    assert code == 3
    assert told in captured.err
    assert captured.err.endswith(
        f"\n  go on with: rlhf-lora train … run_dir={tmp_path / 'run'}\n"
    )  # it may have been derived
    assert "Traceback" not in captured.err
    folder = RunFolder(tmp_path / "run")
    assert folder.summary["status"] == "stopped"
    assert folder.latest_checkpoint().step == 1  # calls: scaling, update 1, update 2
    errors = folder.config["optimizer"]["prompts_per_update"] if name == "gone" else 0
    assert folder.summary["errors"] == errors
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_wandb_offline_writes_into_the_run_folder(tiny_base, tmp_path):
    run = train(tiny_base, tmp_path / "run", "tracker=wandb", "stages=[policy]", "reward=length")
    assert list(run.path.glob("wandb/offline-run-*"))
    assert (run.path / "metrics.jsonl").is_file()


def test_a_run_can_be_stepped_through_and_finished(tiny_base, tmp_path):
    from rlhf_lora import compose, start

    run = start(compose(*overrides(tiny_base, tmp_path / "run", *SMALL, "stages=[policy]", "reward=length")))
    first: Any = run.step()
    assert first["objective/scores"] < 0
    run.finish()
    assert run.step() is None
    assert run.summary["status"] == "finished"
    assert [row["step"] for row in RunFolder(run.folder).metrics("policy")] == [1, 2]


# --- a finished run, again --------------------------------------------------------------------------------------------


def test_evaluating_again_gives_the_same_figures_and_changes_nothing(learned, capsys):
    before = {p: p.stat().st_mtime_ns for p in learned.path.rglob("*")}
    assert cli.run(["evaluate", "--json", str(learned.path)]) == 0
    figures = json.loads(capsys.readouterr().out)
    for part in ("policy", "gold"):
        for key, value in learned.summary[part].items():
            assert figures[part][key] == pytest.approx(value, rel=1e-4), key
    assert {p: p.stat().st_mtime_ns for p in learned.path.rglob("*")} == before


def test_evaluating_with_another_reward_and_other_answers(learned, capsys):
    assert (
        cli.run(["evaluate", str(learned.path), "reward=length", "reward.target=2", "evaluation.seed=5", "--json"]) == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["reward"] == "length"
    assert figures["policy"]["score_mean"] <= 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=1", "evaluation.seed"),
        ("evaluation.prompts=many", "evaluation.prompts"),
        ("evaluation.prompts=0", "evaluation.prompts is 0"),
        ("reward=lenght", "did you mean 'length'"),
        ("evaluation.promts=1", "did you mean"),
        ("reward.target=[", "reward.target"),
        ("+x=1", "x"),
    ],
)
def test_evaluating_with_bad_overrides_is_refused(override, told, learned, capsys):
    assert cli.run(["evaluate", str(learned.path), override]) == 2
    assert told in capsys.readouterr().err


def test_report_is_written_again(learned, capsys):
    (learned.path / "report.html").unlink()
    assert cli.run(["report", str(learned.path)]) == 0
    assert capsys.readouterr().out.strip() == str(learned.path / "report.html")
    assert (learned.path / "report.html").is_file()
