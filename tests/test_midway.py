"""Evaluations within a run: on the tuning prompts, without a trace in the training, and the best update is kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import overrides, spec

from rlhf_lora import cli
from rlhf_lora.backbone import Backbone
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, DataError, Stopped
from rlhf_lora.midway import Midway, flat
from rlhf_lora.plan import make_plan
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.best import Best

SHORT = ("reward=orders_gold", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
         "rollout.max_new_tokens=5", "evaluation.prompts=4")  # fmt: skip
# A reward that draws from the global streams, as rewards with a sampling judge do.
NOISY = """
import random
import torch
from rlhf_lora import reward
@reward("noisy")
def noisy(samples):
    return [len(s.text) + random.random() + float(torch.rand(())) for s in samples]
"""


def train(base: Path, run: Path, *more: str) -> RunFolder:
    assert cli.run(["train", *overrides(base, run, *SHORT, *more)]) == 0
    return RunFolder(run)


def rows(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "time_s"} for row in run.metrics(stage)]


def adapter(run: RunFolder) -> bytes:
    return (run.adapter("policy") / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tiny_base, tmp_path_factory) -> RunFolder:
    return train(tiny_base, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def judged(tiny_base, tmp_path_factory) -> RunFolder:
    return train(tiny_base, tmp_path_factory.mktemp("judged") / "run", "evaluation.every=2")


def test_a_row_comes_every_n_updates_and_after_the_last(judged):
    found = rows(judged, "evaluation")
    assert [row["step"] for row in found] == [2, 3]
    for row in found:
        assert {"eval/win_rate_vs_reference", "eval/kl_to_reference", "eval/score_mean"} <= row.keys()
        assert {"eval/gold/win_rate_vs_reference", "eval/win_rate_ci95_low"} <= row.keys()
        assert row["eval/compared"] == 4


@pytest.mark.slow
def test_training_is_bit_for_bit_that_of_a_run_without_evaluations(plain, judged):
    assert adapter(plain) == adapter(judged)
    assert rows(plain, "policy") == rows(judged, "policy")
    assert plain.summary["policy"] == judged.summary["policy"]
    assert rows(plain, "evaluation") == []


@pytest.mark.slow
def test_a_reward_that_draws_from_the_global_streams_changes_nothing_either(tiny_base, tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    more = (f"plugins=[{tmp_path / 'noisy.py'}]", "reward=noisy")
    one = train(tiny_base, tmp_path / "one", *more)
    other = train(tiny_base, tmp_path / "other", *more, "evaluation.every=1")
    assert adapter(one) == adapter(other)
    assert rows(one, "policy") == rows(other, "policy")


@pytest.mark.slow
def test_the_final_prompts_are_never_shown_before_the_end(tiny_base, tmp_path, monkeypatch):
    from rlhf_lora import midway

    asked, original = [], midway.evaluate_policy

    def watched(backbone: Any, engine: Any, prompts: Any, *args: Any, **more: Any) -> Any:
        asked.append({prompt.text for prompt in prompts})
        return original(backbone, engine, prompts, *args, **more)

    monkeypatch.setattr(midway, "evaluate_policy", watched)
    given = overrides(tiny_base, tmp_path / "run", *SHORT, "evaluation.every=2")
    splits = make_plan(compose(*given)).splits
    assert cli.run(["train", *given]) == 0
    assert len(asked) == 2
    for texts in asked:
        assert texts <= {p.text for p in splits.tuning_prompts}
        assert not texts & {p.text for p in (*splits.final_prompts, *splits.prompts)}


def scripted(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The held-out figure goes as it is told here."""
    from rlhf_lora import midway

    left, original = iter(values), midway.evaluate_policy

    def told(*args: Any, **more: Any) -> Any:
        result = original(*args, **more)
        result.summary["policy"]["score_mean"] = next(left)
        return result

    monkeypatch.setattr(midway, "evaluate_policy", told)


BEST = ("evaluation.every=1", "evaluation.keep=best", "evaluation.metric=policy.score_mean")


@pytest.mark.slow
def test_the_best_update_is_what_is_handed_over_and_judged(plain, tiny_base, tmp_path, monkeypatch):
    scripted(monkeypatch, 1.0, 3.0, 3.0)
    best = train(tiny_base, tmp_path / "best", *BEST)
    assert best.summary["best_update"] == 2  # the earlier of two that are equal
    # Its last checkpoint is that of the whole training, and its adapter is the policy after update 2.
    checkpoints = {step: best.checkpoints / f"update-{step:06d}" / "state.safetensors" for step in (2, 3)}
    from safetensors.torch import load_file

    after = {step: load_file(file) for step, file in checkpoints.items()}
    saved = load_file(best.adapter("policy") / "adapter_model.safetensors")
    assert saved
    trained = {k.removeprefix("weights/policy/"): v for k, v in after[2].items() if k.startswith("weights/policy/")}
    assert sorted(float(v.double().sum()) for v in saved.values()) == pytest.approx(
        sorted(float(v.double().sum()) for v in trained.values())
    )
    assert adapter(best) != adapter(plain)
    assert rows(best, "policy") == rows(plain, "policy")
    last = load_file(plain.checkpoints / "update-000003" / "state.safetensors")
    assert all(torch.equal(after[3][name], tensor) for name, tensor in last.items() if name.startswith("weights/"))
    # The final evaluation is of that policy: judging the folder again gives the same figures.
    from rlhf_lora.evaluation import evaluate

    again = evaluate(str(best.path))
    assert again["policy"]["kl_to_reference"] == pytest.approx(best.summary["policy"]["kl_to_reference"], rel=1e-5)
    assert best.summary["policy"]["kl_to_reference"] != plain.summary["policy"]["kl_to_reference"]


@pytest.mark.slow
def test_without_a_figure_there_is_no_best_and_the_run_stops(tiny_base, tmp_path):
    (tmp_path / "silent.py").write_text(
        "from rlhf_lora import reward\n@reward('silent')\ndef silent(samples):\n"
        "    return [None if len(samples) == 4 else float(len(s.text)) for s in samples]\n"
    )
    given = overrides(tiny_base, tmp_path / "run", *SHORT, "reward=silent", f"plugins=[{tmp_path / 'silent.py'}]",
                      "evaluation.every=1", "evaluation.keep=best")  # fmt: skip
    assert cli.run(["train", *given]) == 3
    assert RunFolder(tmp_path / "run").summary["status"] == "stopped"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["evaluation.keep=best"], "evaluation.every=N"),
        (["evaluation.keep=worst"], "last or best"),
        (["evaluation.every=0"], "at least 1"),
        (["evaluation.every=1", "evaluation.metric=policy.kl_to_reference"], "gold.score_mean"),
        (["evaluation.every=1", "optimizer=dpo"], "no updates to evaluate between"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(more, told, tiny_base, tmp_path):
    with pytest.raises(ConfigError, match=told):
        make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more)))


def test_without_tuning_prompts_or_a_known_truth_it_is_refused(tiny_base, tmp_path):
    tuning = "splits={sft: 20, reward_model: 55, prompts: 20, tuning: 0, final: 5}"
    with pytest.raises(DataError, match="tuning"):
        make_plan(compose(*overrides(tiny_base, tmp_path / "run", "evaluation.every=1", tuning)))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"prompt": "please bring tea {i}", "completion": "tea"}}\n' for i in range(80)))
    wanted = ("evaluation.every=1", "evaluation.keep=best", "evaluation.metric=gold.score_mean", "reward=length")
    with pytest.raises(ConfigError, match="truth is not known"):
        make_plan(
            compose(
                f"model.path={tiny_base}", "dataset=jsonl", f"dataset.path={data}", "rollout.max_new_tokens=4", *wanted
            )
        )


def test_figures_become_flat_rows():
    summary = {"policy": {"kl_to_reference": 1, "win_rate_ci95": [0.25, 0.75]}, "gold": {"score_mean": 2.0}}
    assert flat(summary) == {
        "eval/kl_to_reference": 1.0, "eval/win_rate_ci95_low": 0.25, "eval/win_rate_ci95_high": 0.75,
        "eval/gold/score_mean": 2.0,
    }  # fmt: skip


# --- the best so far --------------------------------------------------------------------------------------------------


def mean(parameter: torch.Tensor) -> float:
    return float(parameter.detach().mean())


def test_the_best_is_put_in_place_and_taken_out_again(tiny_base):
    backbone = Backbone(spec(tiny_base))
    backbone.add_role("policy", trained=True)
    best, (name, parameter) = Best(backbone), next(iter(backbone.parameters("policy").items()))

    def set_to(value: float) -> None:
        with torch.no_grad():
            parameter.fill_(value)

    with best.in_place():  # none yet: nothing changes
        pass
    assert best.gather() == ({}, {})
    for update, (weight, figure) in enumerate([(1.0, 0.5), (2.0, 0.7), (3.0, 0.7)], start=1):
        set_to(weight)
        assert best.offer(update, figure) == (update < 3)
    with best.in_place():
        assert mean(parameter) == 2.0
    assert mean(parameter) == 3.0
    again = Best(backbone)
    again.restore(*best.gather())
    assert (again.update, again.value) == (2, 0.7)
    with suppress(Stopped), again.in_place():
        assert mean(backbone.parameters("policy")[name]) == 2.0
        raise Stopped("…")
    assert mean(parameter) == 3.0


@pytest.mark.slow
def test_answers_are_those_of_the_same_stream_every_time(tiny_base, tmp_path):
    # Two looks at the same policy see the same: the luck of the draw is not what tells updates apart.
    from rlhf_lora import notebook

    run = notebook.start(compose(*overrides(tiny_base, tmp_path / "run", *SHORT, "evaluation.every=3")))
    run.step()
    midway = run._policy.midway
    assert isinstance(midway, Midway)
    assert midway.judge(1) == midway.judge(2)
    run.finish()
