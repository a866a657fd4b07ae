"""`verify` on a tiny model: everything passes as it is, and each check fails when its line is broken."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import overrides

from rlhf_lora import cli, verify
from rlhf_lora.backbone import Backbone
from rlhf_lora.checks import registry
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError
from rlhf_lora.help_texts import HELP
from rlhf_lora.plan import Plan, make_plan
from rlhf_lora.records import Sample
from rlhf_lora.registry import build
from rlhf_lora.stages import sft
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.verify import loop_checks, model_checks, plugin_checks
from rlhf_lora.verify.subject import Subject


@pytest.fixture(scope="module")
def plan(tiny_base, tmp_path_factory) -> Plan:
    return make_plan(compose(*overrides(tiny_base, tmp_path_factory.mktemp("verify") / "run", "reward=length")))


@pytest.fixture(scope="module")
def trained_reward(tiny_base, tmp_path_factory) -> Path:
    """A reward adapter of a few steps, its head not zero."""
    run = tmp_path_factory.mktemp("reward") / "run"
    assert cli.run(["train", *overrides(tiny_base, run, "stages=[reward_model]", "reward=learned")]) == 0
    return run / "adapters" / "reward"


def found(function: Callable[..., Any], plan: Plan, folder: Path, prepare: Callable[[Subject], None] | None = None):
    """One check on a fresh subject, as `rlhf-lora verify` would run it."""
    subject = Subject(plan, folder)
    if prepare is not None:
        prepare(subject)
    (entry,) = [entry for entry in registry.checks("model") if entry.function is function]
    (result,) = registry.run([entry], subject)
    return result


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("reward=length",),
        ("reward=orders_gold", "model.load_in_4bit=false"),
        pytest.param(("reward=length", "rollout.temperature=0.7", "optimizer.value=trunk"), marks=pytest.mark.slow),
        pytest.param(("reward=length", "rollout=hf", "optimizer=rloo"), marks=pytest.mark.slow),
        pytest.param(("reward=length", "optimizer=grpo"), marks=pytest.mark.slow),
        pytest.param(("reward=length", "model.dtype=bfloat16"), marks=pytest.mark.slow),
        pytest.param(("reward=length", "model.gradient_checkpointing=true"), marks=pytest.mark.slow),
    ],
)
def test_nothing_fails_on_what_the_kit_brings(tiny_base, tmp_path, more):
    results = verify.verify(make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more))))
    assert [(r.item, r.title, r.figure) for r in results if r.state == "failed"] == []
    assert verify.counts(results)["passed"] >= 35
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_optimizer_that_rolls_nothing_out_has_checks_that_do_not_apply(tiny_base, tmp_path):
    results = verify.verify(
        make_plan(compose(*overrides(tiny_base, tmp_path / "run", "optimizer=dpo", "reward=length")))
    )
    states = {(r.item, r.title): r.state for r in results}
    assert "failed" not in states.values()
    assert states["C32", "ratio is 1 on the first minibatch"] == "not applicable"
    assert states["L1", "KL is 0 at step 0: policy = reference, bit for bit"] == "passed"


# --- rollout and update -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Engine:
    """The native engine, and something done to what it returns."""

    then: Callable[[list[Sample]], list[Sample]] = lambda samples: samples
    sampled_at: float = 1.0
    temperature: float = 1.0
    stop: Sequence[str] = ()

    def generate(self, *given: Any, **named: Any) -> list[Sample]:
        engine = build("rollout", {"name": "native", "max_new_tokens": 8, "temperature": self.sampled_at})
        return self.then(engine.generate(*given, **named))


@pytest.mark.slow
def test_log_probs_at_another_temperature_are_caught_and_the_temperature_is_named(plan, tmp_path):
    broken = dataclasses.replace(plan, rollout=Engine(sampled_at=0.7))
    result = found(loop_checks.rollout_against_forward, broken, tmp_path / "a")
    assert result.state == "failed"
    assert "they fit temperature 0.7" in result.figure
    result = found(loop_checks.first_ratio, broken, tmp_path / "b")
    assert result.state == "failed"
    assert "max |ratio − 1|" in result.figure


@pytest.mark.slow
def test_a_log_prob_that_is_missing_is_caught(plan, tmp_path):
    def short(samples: list[Sample]) -> list[Sample]:
        return [dataclasses.replace(s, logprobs=list(s.logprobs or ())[:-1]) for s in samples]

    result = found(loop_checks.rollout_against_forward, dataclasses.replace(plan, rollout=Engine(short)), tmp_path)
    assert result.state == "failed"
    assert "8 samples have not one log-prob a token" in result.figure


@pytest.mark.slow
def test_training_at_another_temperature_than_the_rollout_is_caught(plan, tmp_path, monkeypatch):
    right = Backbone.logprobs
    monkeypatch.setattr(
        Backbone, "logprobs", lambda self, h, t, T: right(self, h, t, T * 0.7 if torch.is_grad_enabled() else T)
    )
    assert found(loop_checks.first_ratio, plan, tmp_path).state == "failed"


@pytest.mark.slow
def test_a_policy_that_is_not_the_reference_at_first_is_caught(plan, tmp_path):
    def nudge(subject: Subject) -> None:
        for name, parameter in subject.backbone.parameters("policy").items():
            if "lora_B" in name:
                parameter.data += 0.01

    result = found(loop_checks.kl_at_step_zero, plan, tmp_path, nudge)
    assert result.state == "failed"
    assert "tokens differ" in result.figure


def test_a_role_that_leaks_into_the_reference_is_caught(plan, tmp_path, monkeypatch):
    right = Backbone.role
    monkeypatch.setattr(Backbone, "role", lambda self, n: right(self, "policy" if n == "reference" else n))
    assert found(loop_checks.kl_at_step_zero, plan, tmp_path / "a").state == "passed"  # which alone would see nothing
    result = found(loop_checks.isolation, plan, tmp_path / "b")
    assert result.state == "failed"
    assert "reference: 0 of" not in result.figure


@pytest.mark.slow
def test_a_frozen_role_that_would_learn_is_caught(plan, tmp_path):
    def thaw(subject: Subject) -> None:
        subject.backbone.add_role("extra")
        extra = list(subject.backbone.parameters("extra").values())
        subject.backbone._restore_requires_grad = lambda: [p.requires_grad_(True) for p in extra]  # type: ignore

    result = found(loop_checks.isolation, plan, tmp_path, thaw)
    assert result.state == "failed"
    assert result.figure.startswith(
        "requires_grad is set in "
    )  # of the reference too, where the cache has an SFT adapter
    assert result.figure.endswith("extra")


@pytest.mark.slow
def test_an_update_that_does_nothing_is_caught(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(OnPolicy, "step", lambda self: {})
    result = found(loop_checks.policy_moves, plan, tmp_path)
    assert result.state == "failed"
    assert result.figure.startswith("0 of")


@pytest.mark.slow
def test_a_backward_that_reaches_another_role_is_caught(plan, tmp_path, monkeypatch):
    right = Backbone.response_hidden
    monkeypatch.setattr(
        Backbone, "response_hidden", lambda self, p: right(self, p) + 0 * self.heads["value"].weight.sum()
    )
    result = found(loop_checks.backward_reaches_own, plan, tmp_path)
    assert result.state == "failed"
    assert "value 1" in result.figure


@pytest.mark.slow
def test_a_value_head_that_is_not_zero_is_caught(plan, tmp_path):
    result = found(loop_checks.value_head, plan, tmp_path, lambda s: s.backbone.heads["value"].weight.data.fill_(0.1))
    assert result.state == "failed"
    assert "max |V|" in result.figure


@pytest.mark.slow
@pytest.mark.parametrize(("nudge", "state"), [(0.0, "passed"), (0.1, "failed")])
def test_a_value_head_begins_as_the_reward_model_where_it_is_to(tiny_base, trained_reward, tmp_path, nudge, state):
    more = ("reward=learned", f"reward.path={trained_reward}", "optimizer.value=adapter", "optimizer.value_init=reward")
    plan = make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more)))

    def prepare(subject: Subject) -> None:
        subject.backbone.heads["value"].weight.data.add_(nudge)

    result = found(loop_checks.value_head, plan, tmp_path, prepare)
    assert result.state == state, result.figure
    assert "between V and the reward model" in result.figure


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["oai2019", "tldr2024"])
def test_nothing_fails_under_a_published_profile(tiny_base, trained_reward, tmp_path, profile):
    more = (
        f"profile={profile}",
        "reward=learned",
        f"reward.path={trained_reward}",
        "optimizer.minibatch_size=12",
        "profile_overrides=true",
    )
    results = verify.verify(make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more))))
    assert [(r.item, r.title, r.figure) for r in results if r.state == "failed"] == []
    assert {r.state for r in results if r.item == "C20"} == {"passed"}


@pytest.mark.slow
def test_a_critic_of_a_reward_model_that_is_not_there_yet_does_not_apply(tiny_base, tmp_path):
    more = ("optimizer.value=adapter", "optimizer.value_init=reward", "reward=learned", "dataset.seed=17")
    result = found(loop_checks.value_head, make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more))), tmp_path)
    assert result.state == "not applicable"


@pytest.mark.slow
def test_an_update_that_writes_into_the_base_is_caught(plan, tmp_path, monkeypatch):
    def step(self: OnPolicy) -> dict[str, float]:
        next(p for n, p in self.backbone.base.named_parameters() if "norm" in n).data.mul_(1.001)
        return {}

    monkeypatch.setattr(OnPolicy, "step", step)
    result = found(loop_checks.base_unchanged, plan, tmp_path)
    assert result.state == "failed"
    assert "→" in result.figure


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [model_checks.left_pads, model_checks.filler, model_checks.batch_composition], ids=lambda f: f.__name__
)
def test_pads_that_are_read_are_caught(plan, tmp_path, monkeypatch, function):
    right = Backbone.hidden
    monkeypatch.setattr(Backbone, "hidden", lambda self, i, a, p: right(self, i, torch.ones_like(a), p))
    result = found(function, plan, tmp_path)
    assert result.state == "failed"
    assert "limit" in result.figure


@pytest.mark.slow
def test_dropout_is_caught_in_a_module_and_wherever_else_it_hides(plan, tmp_path):
    def drop(subject: Subject) -> None:
        subject.backbone.base.model.layers[0].mlp.extra = torch.nn.Dropout(0.1)

    result = found(model_checks.dropout, plan, tmp_path / "a", drop)
    assert result.state == "failed"
    assert "p > 0" in result.figure

    def hide(subject: Subject) -> None:
        right = subject.backbone.hidden
        subject.backbone.hidden = lambda *given: torch.nn.functional.dropout(right(*given), 0.05)  # type: ignore

    result = found(model_checks.dropout, plan, tmp_path / "b", hide)
    assert result.state == "failed"
    assert "relative |Δ|" in result.figure


@pytest.mark.slow
def test_gradients_that_lose_size_in_the_4_bit_base_are_caught(plan, tmp_path, monkeypatch):
    """As repacked weights do: the same outputs, smaller gradients."""
    import bitsandbytes as bnb

    right = bnb.nn.Linear4bit.forward

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = right(self, x)
        return 0.3 * y + 0.7 * y.detach()

    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", forward)
    result = found(model_checks.gradient_through_4bit, plan, tmp_path)
    assert result.state == "failed"
    assert "|ours| / |right| = 0." in result.figure


def test_tokens_after_the_end_and_a_wrong_finished_are_caught(plan, tmp_path):
    def run_on(samples: list[Sample]) -> list[Sample]:
        return [dataclasses.replace(s, tokens=[*list(s.tokens or ())[:-1], 0, 5], finished=False) for s in samples]

    def all_finished(samples: list[Sample]) -> list[Sample]:
        return [dataclasses.replace(s, tokens=[5, 6], finished=True) for s in samples]

    for then, told in ((run_on, "after the end token"), (all_finished, "finished without an end token")):
        result = found(model_checks.end_token, dataclasses.replace(plan, rollout=Engine(then)), tmp_path / told)
        assert result.state == "failed"
        assert told in result.figure


@pytest.mark.slow
def test_a_prompt_that_gets_loss_is_caught(plan, tmp_path, monkeypatch):
    right = sft.tokenised
    monkeypatch.setattr(
        sft, "tokenised", lambda *given: [({**row, "labels": row["input_ids"]}, n) for row, n in right(*given)]
    )
    result = found(model_checks.prompt_gets_no_loss, plan, tmp_path)
    assert result.state == "failed"
    assert "prompt tokens get loss" in result.figure


TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|im_end|>{% endfor %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opening", "state"), [("<|assistant|>", "passed"), ("<|helper|>", "failed"), ("<|assistant|> ", "failed")]
)
def test_a_generation_prompt_that_is_no_beginning_of_the_conversation_is_caught(tiny_qwen2, tmp_path, opening, state):
    folder = shutil.copytree(tiny_qwen2, tmp_path / "model")
    template = f"{TURNS}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    (folder / "chat_template.jinja").write_text(template)
    given = overrides(folder, tmp_path / "run", "reward=length", "model.template=chat")
    result = found(model_checks.template_prefix, make_plan(compose(*given)), tmp_path / "work")
    assert result.state == state, result.figure
    assert state == "passed" or "differs at token" in result.figure


@pytest.mark.slow
def test_a_doubled_begin_token_is_caught(plan, tmp_path):
    def double(subject: Subject) -> None:
        chat = subject.chat
        chat.tokenizer.bos_token = chat.tokenizer.convert_ids_to_tokens(5)
        right = chat.prompt_ids
        chat.prompt_ids = lambda prompt: [5, 5, *right(prompt)]

    result = found(model_checks.one_begin, plan, tmp_path, double)
    assert (result.state, result.figure) == ("failed", "8 of 8 prompts begin with two")


# --- the reward -------------------------------------------------------------------------------------------------------


class Reward:
    def __init__(self, score: Callable[[Sequence[Sample]], list[Any]]):
        self.score = score


def drifting() -> Reward:
    calls = iter(range(1000))
    return Reward(lambda samples: [float(next(calls)) for _ in samples])


def rewriting(samples: Sequence[Sample]) -> list[float]:
    for sample in samples:
        sample.text = sample.text.strip() + "!"
    return [0.5] * len(samples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "reward", "told"),
    [
        (plugin_checks.reward_counts, Reward(lambda samples: [0.5]), "could not be measured: ContractError"),
        (plugin_checks.reward_counts, Reward(lambda samples: [float("nan")] * len(samples)), "the reward gave nan"),
        (plugin_checks.reward_counts, Reward(lambda samples: [float("nan"), *[1.0] * 7]), "1 of 8 samples: the reward"),
        (plugin_checks.reward_counts, Reward(lambda samples: [None] * len(samples)), "none of 8 samples has a score"),
        (plugin_checks.reward_repeats, drifting(), "max |Δ| 1.1"),
        (plugin_checks.reward_order, Reward(lambda samples: [float(i) for i in range(len(samples))]), "max |Δ|"),
        (plugin_checks.reward_leaves_inputs, Reward(rewriting), "8 of 8 samples changed"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_caught(plan, tmp_path, function, reward, told):
    result = found(function, dataclasses.replace(plan, reward=reward), tmp_path)
    assert result.state == "failed"
    assert told in result.figure


def test_a_broken_reward_is_not_told_as_a_fault_of_the_loop(plan, tmp_path):
    broken = dataclasses.replace(plan, reward=Reward(lambda samples: 1 / 0))  # type: ignore[arg-type, return-value]
    assert found(loop_checks.first_ratio, broken, tmp_path).state == "passed"


# --- the optimizer ----------------------------------------------------------------------------------------------------


def with_ppo(monkeypatch: pytest.MonkeyPatch, plan: Plan, **methods: Callable[..., Any]) -> None:
    """Methods of the running PPO, each given the right one first."""
    kind = type(plan.optimizer.open(None))
    for name, method in methods.items():
        right = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, given, right=right, method=method: method(right, self, given))


def test_a_loss_with_the_wrong_sign_is_caught(plan, tmp_path, monkeypatch):
    with_ppo(monkeypatch, plan, loss=lambda right, self, m: (-right(self, m)[0], {}))
    result = found(plugin_checks.better_becomes_likelier, plan, tmp_path)
    assert result.state == "failed"
    assert "cosine of push and reward -" in result.figure


@pytest.mark.slow
def test_a_push_without_a_reason_is_caught(plan, tmp_path, monkeypatch):
    def advantages(right, self, batch):
        batch, metrics = right(self, batch)
        return dataclasses.replace(batch, advantages_BT=batch.advantages_BT + 0.1), metrics

    with_ppo(monkeypatch, plan, advantages=advantages)
    assert found(plugin_checks.equal_scores, plan, tmp_path).state == "failed"


@pytest.mark.slow
def test_a_loss_that_reads_pads_is_caught(plan, tmp_path, monkeypatch):
    with_ppo(monkeypatch, plan, loss=lambda right, self, m: (right(self, m)[0] + m.new_logprobs_BT.mean(), {}))
    result = found(plugin_checks.no_gradient_in_pads, plan, tmp_path)
    assert result.state == "failed"
    assert "limit 0" in result.figure


@pytest.mark.slow
def test_a_mean_that_is_not_over_what_it_says_is_caught(plan, tmp_path, monkeypatch):
    with_ppo(monkeypatch, plan, loss=lambda right, self, m: (right(self, m)[0] * m.batch.mask_BT.sum() / 10, {}))
    result = found(plugin_checks.micro_batches, plan, tmp_path)
    assert result.state == "failed"
    assert "weighted by tokens" in result.figure


def test_every_check_of_the_model_is_broken_once_in_here():
    source = Path(__file__).read_text("utf-8")
    unbroken = [e.function.__name__ for e in registry.checks("model") if f"checks.{e.function.__name__}" not in source]
    assert unbroken == []


# --- the command ------------------------------------------------------------------------------------------------------

UNSTEADY = """\
import os
from rlhf_lora import reward

@reward("unsteady")
def unsteady(samples):
    return [int.from_bytes(os.urandom(4), "big") / 2**32 for _ in samples]
"""


def test_the_command_prints_a_table_and_ends_with_0(tiny_base, tmp_path, capsys):
    assert cli.run(["verify", *overrides(tiny_base, tmp_path / "run", "reward=length")]) == 0
    out = capsys.readouterr().out
    lines = out.rstrip().splitlines()
    assert lines[0].split() == ["item", "what", "figure", "source"]
    assert "max |Δ|" in out
    assert "Schulman et al. 2016" in out
    assert lines[-1].endswith("passed, 0 failed, 2 not applicable")


@pytest.mark.slow
def test_a_plugin_that_fails_ends_the_command_with_3_and_is_named(tiny_base, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(UNSTEADY)
    given = overrides(tiny_base, tmp_path / "run", f"plugins=[{tmp_path / 'mine.py'}]", "reward=unsteady")
    assert cli.run(["verify", "--json", *given]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["reward"] == "unsteady"
    assert told["failed"] == 2
    failed = [row for row in told["results"] if row["state"] == "failed"]
    assert [row["item"] for row in failed] == ["R2", "R3"]
    assert all("max |Δ| 0." in row["figure"] for row in failed)
    assert told["passed"] + told["failed"] + told["not_applicable"] == len(told["results"])


@pytest.mark.slow
def test_a_check_of_ones_own_from_the_page_is_a_line_of_the_table(tiny_base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_table", dict(registry._table))
    page = (Path(__file__).parent.parent / "docs" / "verify.md").read_text("utf-8")
    (tmp_path / "own.py").write_text(
        UNSTEADY.replace("unsteady", "beside") + page.partition("```python\n")[2].partition("```")[0]
    )
    given = overrides(tiny_base, tmp_path / "run", f"plugins=[{tmp_path / 'own.py'}]", "reward=length")
    assert cli.run(["verify", "--json", *given]) in (0, 3)  # an answer of this model may well be empty
    (row,) = [row for row in json.loads(capsys.readouterr().out)["results"] if row["item"] == "X1"]
    assert row["figure"].endswith("of 8 are")


@pytest.mark.parametrize("words", [["--profile", "ppo2017"], ["--profile=ppo2017"]])
def test_a_profile_that_is_not_there_is_refused_with_those_that_are(words, capsys):
    assert cli.run(["verify", *words]) == 2
    told = capsys.readouterr().err
    assert "there is no profile 'ppo2017'" in told
    assert all(name in told for name in verify.profiles())


def test_a_profile_stands_before_what_the_user_says(monkeypatch):
    monkeypatch.setattr(verify, "profiles", lambda: ["mine"])
    monkeypatch.setattr(verify, "_is_in_defaults", lambda group: False)
    assert verify.with_profile(["seed=1"], "mine") == ["+profile=mine", "seed=1"]
    monkeypatch.setattr(verify, "_is_in_defaults", lambda group: True)
    assert verify.with_profile(["seed=1"], "mine") == ["profile=mine", "seed=1"]
    assert verify.with_profile(["seed=1"], None) == ["seed=1"]
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        verify.with_profile([], "min")


def test_profile_belongs_to_verify_alone_and_wants_a_name(capsys):
    assert cli.run(["plan", "--profile", "mine"]) == 2
    assert "there is no flag '--profile'" in capsys.readouterr().err
    assert cli.run(["verify", "--profile"]) == 2
    assert "--profile wants a name" in capsys.readouterr().err


@pytest.mark.parametrize("line", [x.strip() for x in HELP["verify"].splitlines() if x.startswith("  rlhf-lora verify")])
def test_each_example_of_the_help_reaches_the_checks(line, monkeypatch, tmp_path, capsys):
    from rlhf_lora import plugin_table as plugins

    monkeypatch.chdir(tmp_path)
    Path("my_reward.py").write_text(UNSTEADY.replace("unsteady", "my_reward"))
    asked: list[Plan] = []
    monkeypatch.setattr(verify, "verify", lambda plan: asked.append(plan) or [])
    words = shlex.split(line)[1:]
    assert (
        cli.run([*words, "dataset.items=16", "dataset.demonstrations=80", "dataset.pairs=120", "dataset.prompts=240"])
        == 0
    )
    assert len(asked) == 1
    plugins.table.pop(("reward", "my_reward"), None)
