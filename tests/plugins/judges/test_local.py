"""`judge=local`: which model it is, what is refused, and that it shares the run's base without a trace."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import tiny

from rlhf_lora import compose, registry
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.file_stages import name_of
from rlhf_lora.judge_measured import measure
from rlhf_lora.judging import texts
from rlhf_lora.judging.orders import compare
from rlhf_lora.plan import make_plan
from rlhf_lora.records import Comparison, Prompt
from rlhf_lora.testing import check_judge

PROMPT = Prompt("bring tea")
FEW = ("dataset.pairs=30", "dataset.demonstrations=30", "dataset.prompts=30")
QUICK = {"style": "bare", "load_in_4bit": False, "least_mass": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    tiny.build_qwen2(folder)
    return folder


@pytest.fixture
def backbone(model):
    from rlhf_lora.backbone import Backbone

    made = Backbone(tiny.spec(model, load_in_4bit=False))
    made.add_role("policy", trained=True)
    tiny.stir(made, "policy", 0.5)
    return made


def local(**settings):
    return registry.build("judge", {"name": "local", **QUICK, **settings})


def test_it_is_the_base_without_adapters_and_however_often_opened_one_role(backbone):
    first, second = (local().open(Context(backbone=backbone, chat=backbone.chat)) for _ in range(2))
    assert first.on_device
    assert [name for name in backbone.roles if name.startswith("judge")] == ["judge"]
    assert first.compare(PROMPT, "tea", "no") == second.compare(PROMPT, "tea", "no")
    assert not backbone.roles["judge"].adapter


def test_it_is_called_after_its_model_so_that_rows_of_two_are_not_taken_for_one_raters(model):
    assert local().model is None
    assert local(path=str(model)).model == model.name
    assert name_of(local(path=str(model))) == f"local/{model.name}"


def test_an_adapter_is_a_role_of_its_own_and_judges_as_it_was_trained(backbone, tmp_path):
    backbone.save_adapter("policy", tmp_path / "run" / "adapters" / "policy")
    ctx = Context(backbone=backbone, chat=backbone.chat)
    bare, own, again = (
        local(adapter=given).open(ctx) for given in (None, str(tmp_path / "run"), str(tmp_path / "run"))
    )
    base, adapted = (one.compare(PROMPT, "tea", "no").probability_a for one in (bare, own))
    assert abs(base - adapted) > 1e-3
    assert again.compare(PROMPT, "tea", "no").probability_a == adapted
    assert [name for name in backbone.roles if name.startswith("judge")] == ["judge", "judge_2"]


def test_another_model_judges_as_it_would_alone(model, backbone):
    beside = local(path=str(model)).open(Context(backbone=None))
    shared = local().open(Context(backbone=backbone, chat=backbone.chat))
    pairs = [Comparison(PROMPT, "tea", "no"), Comparison(PROMPT, "soup", "tea soup")]
    assert [v.probability_a for v in beside.compare_all(pairs)] == pytest.approx(
        [v.probability_a for v in shared.compare_all(pairs)]
    )
    assert all(one.flipped in (True, False) for one in compare(beside, pairs))


def test_opened_with_a_model_it_keeps_every_promise_of_a_judge(model):
    class Opened:
        """A judge that has its model already: the kit opens judges where there is none."""

        def compare(self, prompt, a, b):
            return judge.compare(prompt, a, b)

        def compare_all(self, comparisons):
            return judge.compare_all(comparisons)

        def rate_all(self, answers):
            return judge.rate_all(answers)

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 20000}))
    judge = local(path=str(model), max_length=1000).open(Context())
    report = check_judge(Opened(), raises=False)
    assert report.passed, str(report)
    assert report["many"].ok and report["ratings"].ok  # noqa: PT018


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"template": "loud"}, "template"),
        ({"batch_size": 0}, "batch_size"),
        ({"least_mass": 1.0}, "least_mass"),
        ({"reasoning": "steps"}, "bare"),
        ({"path": "./nowhere"}, "no model folder"),
        ({"adapter": "./nowhere"}, "no adapter"),
        ({"adaptor": "x"}, "adapter"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises((ConfigError, ModelError), match=said):
        local(**settings)


def test_where_there_is_no_base_it_says_what_to_give():
    with pytest.raises(ModelError, match="no base"):
        local().open(Context())


def test_a_base_that_does_not_know_the_words_is_refused_by_the_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="does not tell") as refused:
        make_plan(compose("reward=ai_feedback", "judge=local", *FEW))
    assert "rlhf_lora.mini judge" in refused.value.fix
    make_plan(compose("judge=local", *FEW), trains=False)  # nobody asks it


@pytest.mark.parametrize("whose", ["judge.path", "model.path"])
def test_a_model_that_knows_the_letters_and_no_numbers_compares_and_does_not_rate(
    tiny_base, tmp_path, monkeypatch, whose
):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    base = shutil.copytree(tiny_base, tmp_path / "letters")
    table = json.loads((base / "tokenizer.json").read_text())
    ids = sorted(table["model"]["vocab"].items(), key=lambda one: one[1])
    learned = dict(zip([word for word, _ in ids[-3:]], texts.PAIR_OR_TIE, strict=True))
    table["model"]["vocab"] = {learned.get(word, word): number for word, number in ids}
    (base / "tokenizer.json").write_text(json.dumps(table))
    asked = ("reward=ai_feedback", "judge=local", f"{whose}={base}", *FEW)
    assert make_plan(compose(*asked)).judge is not None
    with pytest.raises(ModelError, match="does not tell '2' from '1'") as refused:
        make_plan(compose(*asked, "reward.mode=pointwise"))
    assert refused.value.where == f"judge=local judge.path={base if whose == 'judge.path' else 'null'}"


def test_a_base_that_knows_the_words_is_not(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    assert make_plan(compose("reward=ai_feedback", "judge=local", f"model.path={model}", *FEW)).judge.needs_backbone


def test_what_is_no_model_is_told_by_the_setting_that_gave_it(tmp_path):
    with pytest.raises(ModelError) as refused:
        local(path=str(tmp_path))
    assert refused.value.where == f"judge.path={tmp_path}"


def test_a_hub_id_that_cannot_be_had_is_told_by_the_judges_setting():
    with pytest.raises(ModelError) as refused:  # the network is off
        local(path="some/judge").open(Context())
    assert refused.value.where == "judge.path=some/judge"
    assert "hub id" in refused.value.fix


def test_the_plan_counts_a_judges_own_model_where_it_is_asked(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    asked = ("reward=ai_feedback", "judge=local", "model.dtype=float32", *FEW)
    with_it, without = (
        {stage.name: stage.memory for stage in make_plan(compose(*asked, *more)).stages}
        for more in ((f"judge.path={model}", "judge.load_in_4bit=false"), (f"model.path={model}",))
    )
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert with_it["policy"].judge == pytest.approx(weights, rel=0.1)
    assert (with_it["sft"].judge, without["policy"].judge) == (0, 0)
    alone = dataclasses.replace(with_it["policy"], judge=0, fragmentation=0)
    assert with_it["policy"].total > alone.total + with_it["policy"].judge
    relabelled = make_plan(compose("reward_model.pairs=relabel", "judge=local", f"judge.path={model}", *FEW))
    assert relabelled.stage("labels").memory.judge > 0


def test_the_plan_counts_it_where_it_refreshes_the_reward_model(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    given = compose("rounds=2", "refresh.by=judge", "judge=local", f"judge.path={model}", *FEW)
    small = {stage.name: stage.memory for stage in make_plan(given).stages}
    assert small["policy"].judge == 0  # PPO takes more than sampling with a judge that small
    monkeypatch.setattr(type(local()), "own_bytes", lambda self, dtype: 2**33)
    large = {stage.name: stage.memory for stage in make_plan(given).stages}
    assert large["policy"].judge == 2**33
    assert (large["reward_model"], large["sft"]) == (small["reward_model"], small["sft"])
    monkeypatch.setattr(type(local()), "own_bytes", lambda self, dtype: None)
    assert any("memory of the judge is not counted" in note for note in make_plan(given).notes)


def test_the_model_of_a_hub_id_is_counted_where_its_shape_is_known_here_and_else_the_plan_says_that_it_is_not(
    model, tmp_path, monkeypatch
):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = ("reward=ai_feedback", "judge=local", "judge.load_in_4bit=false", *FEW)

    def told(*more: str) -> tuple[int, list[str]]:
        made = make_plan(compose(*asked, *more))
        return made.stage("policy").memory.judge, [note for note in made.notes if "not counted" in note]

    weights, (note,) = told("judge.path=some/judge")
    assert weights == 0
    assert note.endswith("how large some/judge is")
    kept = tmp_path / "hub" / "models--some--judge"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    shutil.copy(model / "config.json", kept / "snapshots" / ("0" * 40))
    assert told("judge.path=some/judge") == told(f"judge.path={model}")
    assert told("judge.path=some/judge")[0] > 0


def test_measuring_it_on_such_a_base_is_refused_before_the_base_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="does not tell"):
        measure("judge=local", *FEW)
    assert not list(tmp_path.rglob("*.safetensors"))
