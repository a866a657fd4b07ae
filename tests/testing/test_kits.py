"""The conformance kits: every built-in plugin keeps its promises, and for each promise there is a plugin that breaks it and no
other. Rewards have their broken ones in files: tests/test_broken_plugins.py."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import Server
from tiny import jsonl, labels_model

from rlhf_lora import Data, Pair, Prompt, Sample, Score, Verdict, registry, reward, testing
from rlhf_lora.errors import ContractError, PluginError
from rlhf_lora.labels import files
from rlhf_lora.labels.conversion import row_of
from rlhf_lora.records import Ranking, Rating, Unused
from rlhf_lora.testing import datasets, judges, optimizers, rewards, rollouts, trackers

QUIET_KINDS = ("reward", "judge", "dataset", "tracker")


def broken(report: testing.Report) -> list[str]:
    return [row.id for row in report.rows if row.ok is False]


def built_in(*kinds: str) -> list[Any]:
    found = [e for kind in kinds for e in registry.entries(kind) if e.cls.__module__.startswith("rlhf_lora.")]
    return [pytest.param(e.kind, e.name, id=f"{e.kind}={e.name}") for e in found]


def requests() -> list[Sample]:
    """Of the helpdesk: its truths have nothing to say of other prompts."""
    made = registry.build(
        "dataset", {"name": "helpdesk", "demonstrations": 8, "pairs": 0, "prompts": 8, "seed": 0}
    ).load()
    return [Sample(row.prompt.text, row.completion, columns=row.prompt.columns) for row in made.demonstrations]


@pytest.fixture(scope="module")
def judge_server() -> Iterator[Server]:
    with Server(answer=lambda request: "A") as server:
        yield server


# --- what comes with the kit ------------------------------------------------------------------------------------------


FEW = {"demonstrations": 20, "pairs": 20, "prompts": 20}
SETTINGS: dict[str, dict[str, Any]] = {
    "tracker=wandb": {"mode": "disabled"},
    "dataset=orders": FEW,
    "dataset=helpdesk": FEW,
    "dataset=helpdesk_rules": FEW | {"labelled": 40},
    "reward=keywords": {"any": ["tea"]},
    "reward=markdown": {"all": ["list"]},
    "reward=mix": {"parts": {"a": {"name": "length"}, "b": {"name": "ended"}}},
    "reward=regex": {"pattern": "tea"},
    "reward=sequence_classifier": {"path": "org/classifier"},
    "reward=unit_tests": {"run_code": True, "sandbox": "none"},
}
"""What has to be given, or would take long as it is."""
ROWS: dict[str, list[Sample]] = {
    "reward=helpdesk_gold": requests(),
    "reward=helpdesk_help": requests(),
    "reward=helpdesk_harm": requests(),
    "reward=helpdesk_rules_gold": requests(),
    "reward=instructions": [
        Sample("name a fruit", text, columns={"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
        for text in ("an apple", "apples, or pears")
    ],
    "reward=math_answer": [Sample("6 * 7 = ?", f"it is {n}", columns={"answer": "42"}) for n in (41, 42)],
    "reward=unit_tests": [
        Sample(
            "add", f"```python\ndef add(a, b):\n    return a {op} b\n```", columns={"tests": ["assert add(2, 3) == 5"]}
        )
        for op in "+-"
    ],
}
"""Rows for the rewards that ask for columns, or know only their own task."""


@pytest.mark.parametrize(("kind", "name"), built_in(*QUIET_KINDS, "optimizer"))
def test_built_in_plugins_keep_their_promises(kind, name, tmp_path, judge_server):
    settings, rows = SETTINGS.get(f"{kind}={name}", {}), ROWS.get(f"{kind}={name}")
    if f"{kind}={name}" in ("dataset=jsonl", "dataset=hub"):
        pairs = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(20)]
        file = jsonl(tmp_path / "train.jsonl", pairs)
        settings = {"path": str(file if name == "jsonl" else tmp_path)}
    if f"{kind}={name}" == "dataset=labels":
        pairs = [Pair(Prompt(f"please bring {i}"), "certainly tea", f"no {i}") for i in range(20)]
        files.write(tmp_path / "labels.jsonl", map(row_of, pairs))
        settings = {"path": str(tmp_path / "labels.jsonl")}
    if name == "openai_api":
        settings = {"base_url": judge_server.url, "model": "tiny"}
    if name == "rule_model":
        settings = {"path": str(labels_model(tmp_path / "model")), "rules": {"polite": "always be courteous"}}
    plugin = registry.build(kind, {"name": name, **settings})
    report = getattr(testing, f"check_{kind}")(plugin, raises=False, **({"samples": rows} if rows else {}))
    assert report.passed, str(report)
    assert report["rebuild"].ok
    if kind not in ("reward", "judge") or report["opens"].ok:
        assert sum(row.ok is True for row in report.rows) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), built_in("rollout"))
def test_built_in_rollout_engines_keep_their_promises(kind, name):
    report = testing.check_rollout(name)
    assert all(row.ok for row in report.rows if row.id != "cheap"), list(report.rows)


def test_a_reward_that_needs_a_model_is_looked_at_as_far_as_it_goes():
    report = testing.check_reward("learned")
    assert report["opens"].ok is None
    assert "needs a model" in report["opens"].why
    assert "needs a model" in report["order"].why


def test_the_kits_of_what_reads_text_load_no_torch():
    code = (
        "import sys\nfrom rlhf_lora import testing\ntesting.check_reward('length')\ntesting.check_tracker('local')\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'datasets'}), testing.check_reward('length')['cheap'].why)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[] no heavy package was loaded", done.stderr


# --- what may be given ------------------------------------------------------------------------------------------------


def test_a_function_its_name_and_an_object_can_be_checked():
    @reward("probe")
    def probe(samples, *, target: int = 3):
        return [float(len(sample.text) - target) for sample in samples]

    assert testing.check_reward(probe).plugin == "reward=probe"
    assert testing.check_reward("probe").passed
    assert testing.check_reward(registry.build("reward", {"name": "probe", "target": 5})).passed
    assert probe([Sample("p", "abcd")]) == [1.0]  # the function itself is as it was


def test_what_is_no_plugin_is_refused():
    with pytest.raises(PluginError, match="is no reward"):
        testing.check_reward(3)
    with pytest.raises(PluginError, match="no reward named 'lenght'; did you mean 'length'"):
        testing.check_reward("lenght")


def test_an_object_that_is_not_registered_can_be_checked():
    class Plain:
        def score(self, samples):
            return [1.0 for _ in samples]

    report = testing.check_reward(Plain())
    assert report["rebuild"].ok is None
    assert 'put @reward("name")' in report["rebuild"].why


def test_columns_come_from_the_rows_that_are_given():
    @reward("right")
    def right(samples, *, answer):
        return [float(value in sample.text) for value, sample in zip(answer, samples, strict=True)]

    rows = [
        Sample("2 + 3?", "It is 5.", columns={"answer": "5"}),
        Sample("1 + 1?", "It is 3.", columns={"answer": "2"}),
    ]
    assert testing.check_reward(right, samples=rows)["columns"].why == "answer"
    assert broken(testing.check_reward(right, raises=False)) == ["columns"]


def test_an_async_reward_is_waited_for():
    class Later:
        async def score(self, samples):
            return [float(len(sample.text)) for sample in samples]

    assert testing.check_reward(Later()).passed


def test_what_may_be_declared_is_honoured():
    class Loose:
        deterministic, score_range, latency_s = False, (0, 1), 2.0

        def score(self, samples):
            return [random.random() for _ in samples]

    report = testing.check_reward(Loose())
    assert report["twice"].ok is None
    assert report["range"].ok
    assert report["alone"].ok is None


def test_a_score_without_value_is_no_failure():
    class Careful:
        def score(self, samples):
            return [Score.none("empty") if not s.text else Score(1.0, parts={"one": 1.0}) for s in samples]

    assert testing.check_reward(Careful())["empty_text"].why == "no value"


def test_every_promise_of_a_reward_is_broken_by_some_file():
    from test_broken_plugins import PROMISES

    wanted = {promise.id for promise in rewards.KIT.promises} - {"count"}  # wrong for one sample is wrong for many
    assert wanted <= {promise for promise, _ in PROMISES.values()}


def test_a_batch_with_a_wrong_count_is_told_from_a_single():
    class Merges:
        def score(self, samples):
            return sorted({float(len(sample.text) > 30) for sample in samples})

    assert broken(testing.check_reward(Merges(), raises=False)) == ["count"]


# --- the other kinds, one broken plugin for each promise --------------------------------------------------------------

COUNTER = itertools.count()


def verdict(answer: Callable[..., Any], **more: Any) -> Any:
    return type("Probe", (), {"compare": lambda self, prompt, a, b: answer(prompt, a, b), **more})()


def shorter(prompt: Prompt, a: str, b: str) -> Verdict:
    return Verdict("A" if len(a) < len(b) else "B")


BROKEN_JUDGES = {
    "opens": lambda: verdict(shorter, open=lambda self, ctx: 1 / 0),
    "runs": lambda: verdict(lambda prompt, a, b: 1 / 0),
    "type": lambda: verdict(lambda prompt, a, b: "A"),
    "choice": lambda: verdict(lambda prompt, a, b: Verdict("first")),  # type: ignore[arg-type]
    "probability": lambda: verdict(lambda prompt, a, b: Verdict("A", probability_a=0.2)),
    "values": lambda: verdict(lambda prompt, a, b: Verdict(None, reason="no idea")),
    "twice": lambda: verdict(lambda prompt, a, b: Verdict("A", probability_a=0.6 + 1e-3 * next(COUNTER))),
    "empty_text": lambda: verdict(lambda prompt, a, b: Verdict("A") if a else 1 / 0),
    "unicode": lambda: verdict(lambda prompt, a, b: Verdict("A", reason=a.encode("ascii").decode())),
    "long_text": lambda: verdict(lambda prompt, a, b: Verdict("A") if len(a) < 9999 else Verdict("long")),  # type: ignore[arg-type]
    "many": lambda: verdict(
        shorter, compare_all=lambda self, asked: [shorter(one.prompt, one.a, one.b) for one in asked[::-1]]
    ),
    "ratings": lambda: verdict(shorter, rate_all=lambda self, answers: [Score(float(i)) for i in range(len(answers))]),
    "latency": lambda: verdict(lambda prompt, a, b: time.sleep(0.02) or Verdict("A"), latency_s=0.01),
    "quiet": lambda: verdict(lambda prompt, a, b: print("x" * 9000) or Verdict("A")),
}


@pytest.mark.parametrize("id", sorted(BROKEN_JUDGES))
def test_a_judge_that_breaks_one_promise(id):
    report = testing.check_judge(BROKEN_JUDGES[id](), raises=False)
    assert broken(report) == [id]
    with pytest.raises(ContractError, match=f"breaks '{id}'"):
        testing.check_judge(BROKEN_JUDGES[id]())


@pytest.mark.parametrize("given", [None, [Verdict("A")], ["A"] * 16, 3.0], ids=str)
def test_a_judge_of_many_gives_one_verdict_each(given):
    report = testing.check_judge(verdict(shorter, compare_all=lambda self, asked: given), raises=False)
    assert broken(report) == ["many"]


def test_a_judge_that_keeps_them_all():
    async def rate_all(self, answers):
        return [Score(float(len(text))) for _, text in answers]

    many = verdict(
        shorter, compare_all=lambda self, asked: [shorter(c.prompt, c.a, c.b) for c in asked], rate_all=rate_all
    )
    report = testing.check_judge(many)
    assert report["many"].ok
    assert report["ratings"].ok
    assert testing.check_judge(verdict(shorter)).passed
    assert {promise.id for promise in judges.KIT.promises} - BROKEN_JUDGES.keys() == {
        "cheap",
        "rebuild",
    }  # of every kind


ROW = Pair(Prompt("p"), "a", "b")


def loads(data: Callable[[], Any], fingerprint: Callable[[], Any] = lambda: "f") -> Any:
    return type("Probe", (), {"load": lambda self: data(), "fingerprint": lambda self: fingerprint()})()


BROKEN_DATASETS = {
    "runs": lambda: loads(lambda: 1 / 0),
    "type": lambda: loads(lambda: [ROW]),
    "rows": lambda: loads(Data),
    "prompts": lambda: loads(lambda: Data(pairs=[ROW, Pair(Prompt(" "), "a", "b")])),
    "unused": lambda: loads(lambda: Data(pairs=[ROW], unused=[Unused("line 3", "")])),
    "twice": lambda: loads(lambda: Data(pairs=[ROW, Pair(Prompt("p"), "a", str(next(COUNTER)))])),
    "fingerprint": lambda: loads(lambda: Data(pairs=[ROW]), lambda: str(next(COUNTER))),
    "quiet": lambda: loads(lambda: print("x" * 9000) or Data(pairs=[ROW])),
}


@pytest.mark.parametrize("id", sorted(BROKEN_DATASETS))
def test_a_dataset_that_breaks_one_promise(id):
    assert broken(testing.check_dataset(BROKEN_DATASETS[id](), raises=False)) == [id]
    assert {promise.id for promise in datasets.KIT.promises} - BROKEN_DATASETS.keys() == {"cheap", "rebuild"}


RANKED = Ranking(Prompt("p"), ("a", "b"), (1.0, 2.0))


def test_a_dataset_of_rankings_or_ratings_alone_has_something_in_it():
    for data in (Data(rankings=[RANKED]), Data(ratings=[Rating(Prompt("p"), "a", 3.0)])):
        assert testing.check_dataset(loads(lambda data=data: data)).passed


@pytest.mark.parametrize(
    ("id", "data", "named"),
    [
        ("type", lambda: Data(rankings=["nonsense"]), "rankings[0]"),
        ("type", lambda: Data(pairs=[ROW], ratings=[3]), "ratings[0]"),
        ("type", lambda: Data(pairs=[ROW], test=[ROW]), "in test"),
        ("type", lambda: Data(pairs=[ROW], test=Data(pairs=[3])), "test.pairs[0]"),
        ("prompts", lambda: Data(rankings=[RANKED], test=Data(prompts=[Prompt("")])), "test.prompts[0]"),
        (
            "twice",
            lambda: Data(rankings=[RANKED, Ranking(Prompt("p"), ("a", str(next(COUNTER))), (1.0, 2.0))]),
            "rankings[1]",
        ),
        ("twice", lambda: Data(pairs=[ROW], test=Data(prompts=[Prompt(str(next(COUNTER)))])), "test.prompts[0]"),
    ],
)
def test_every_list_of_a_dataset_is_looked_at_and_its_test_set_too(id, data, named):
    report = testing.check_dataset(loads(data), raises=False)
    assert broken(report) == [id]
    assert named in report[id].why


def tracks(**more: Any) -> Any:
    return type("Probe", (), {"log": lambda self, step, metrics: None, "close": lambda self: None, **more})()


def closed_once(self: Any) -> None:
    self.closed = not getattr(self, "closed", False)
    assert self.closed, "closed already"


BROKEN_TRACKERS = {
    "opens": lambda: tracks(open=lambda self, ctx: 1 / 0),
    "log": lambda: tracks(log=lambda self, step, metrics: metrics["objective/kl"]),
    "inputs": lambda: tracks(log=lambda self, step, metrics: metrics.clear()),
    "samples": lambda: tracks(samples=lambda self, step, rows: [row["score"] + 1 for row in rows]),
    "close": lambda: tracks(close=closed_once),
    "quiet": lambda: tracks(log=lambda self, step, metrics: print("x" * 9000)),
}


@pytest.mark.parametrize("id", sorted(BROKEN_TRACKERS))
def test_a_tracker_that_breaks_one_promise(id):
    assert broken(testing.check_tracker(BROKEN_TRACKERS[id](), raises=False)) == [id]
    assert {promise.id for promise in trackers.KIT.promises} - BROKEN_TRACKERS.keys() == {"cheap", "rebuild"}


def steps(name: str, change: Callable[[Any, Any], Any], plugin: str = "rloo") -> Any:
    """An optimizer of the kit's with one method changed: `change(what it gave, what it was given)`."""
    settings = registry.build("optimizer", {"name": plugin})
    kind = type(settings.open(None))

    def changed(self: Any, *given: Any) -> Any:
        return change(getattr(kind, name)(self, *given), *given)

    made = type("Changed", (kind,), {name: changed})
    return type("Probe", (type(settings),), {"open": lambda self, ctx: made(self)})()


def scaled(advantages: Any) -> Any:
    from dataclasses import replace

    return replace(advantages, advantages_BT=advantages.advantages_BT * float("nan"))


def drift(m: Any) -> Any:
    """Makes every token a little likelier, whatever it scored."""
    return 1e-3 * (m.new_logprobs_BT * m.batch.mask_BT).sum()


def padding(m: Any) -> Any:
    """Learns from what stands behind the end; nothing where all scores are equal."""
    return (m.new_logprobs_BT * ~m.batch.mask_BT * m.batch.rewards_B[:, None]).sum()


BROKEN_OPTIMIZERS = {
    "learns_from": lambda: type("Probe", (), {"learns_from": "people", "fit": lambda self, model, data, ctx: {}})(),
    "fit": lambda: type("Probe", (), {"learns_from": "pairs", "fit": lambda self, data: {}})(),
    "settings": lambda: type("Probe", (), {"samples_per_prompt": 1, "roles": ("policy",)})(),
    "advantages": lambda: steps("advantages", lambda got, batch: (scaled(got[0]), got[1])),
    "loss": lambda: steps("loss", lambda got, minibatch: (got[0].expand(3), got[1])),
    "better": lambda: steps("loss", lambda got, minibatch: (-got[0], got[1])),
    "equal": lambda: steps("loss", lambda got, m: (got[0] - drift(m), got[1])),
    "pads": lambda: steps("loss", lambda got, m: (got[0] + padding(m), got[1])),
    "inputs": lambda: steps("advantages", lambda got, batch: (got[0], {"x": float(batch.rewards_B.add_(1).sum())})),
    "state": lambda: steps("state", lambda got: got | {"draws": float(next(COUNTER))}),
    "quiet": lambda: steps("loss", lambda got, minibatch: print("x" * 9000) or got),
}  # fmt: skip


@pytest.mark.parametrize("id", sorted(BROKEN_OPTIMIZERS))
def test_an_optimizer_that_breaks_one_promise(id):
    assert broken(testing.check_optimizer(BROKEN_OPTIMIZERS[id](), raises=False)) == [id]
    assert {promise.id for promise in optimizers.KIT.promises} - BROKEN_OPTIMIZERS.keys() == {"cheap", "rebuild"}


def doubles(state: Any, restore: Any, plugin: str = "ppo") -> tuple[Any, type]:
    """Settings, and an optimizer at work whose β doubles with each update."""
    settings = registry.build("optimizer", {"name": plugin})
    kind = type(settings.open(None))

    def after_update(self: Any, metrics: Any, samples: int) -> dict[str, float]:
        self.beta *= 2
        return {}

    return settings, type("Doubles", (kind,), {"after_update": after_update, "state": state, "restore": restore})


def keeps(self: Any) -> dict[str, float]:
    return {"beta": self.beta}


def takes(self: Any, state: Any) -> None:
    self.beta = state["beta"]


@pytest.mark.parametrize("plugin", ["ppo", "rloo", "grpo"])
@pytest.mark.parametrize(
    ("state", "restore", "kept"),
    [
        (lambda self: {}, lambda self, state: None, False),
        (keeps, lambda self, state: None, False),
        (keeps, takes, True),
    ],
    ids=["nothing", "not taken back", "carried"],
)
def test_what_moves_between_updates_must_be_carried_by_the_state(state, restore, kept, plugin):
    settings, made = doubles(state, restore, plugin)
    probe = type("Probe", (type(settings),), {"open": lambda self, ctx: made(self)})()
    assert broken(testing.check_optimizer(probe, raises=False)) == ([] if kept else ["state"])


def test_an_optimizer_without_open_is_restored_into_another_object():
    """Restoring into the object that has changed shows nothing: it is as it was left."""

    class Probe:
        """No `open`: the plugin itself runs."""

        def __init__(self, kept: bool):
            self.running, self.kept = registry.build("optimizer", {"name": "rloo"}).open(None), kept
            self.updates = 0

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name in ("open", "running", "learns_from"):
                raise AttributeError(name)
            return getattr(self.running, name)

        def __deepcopy__(self, memo: Any) -> Any:
            other = Probe(self.kept)
            other.updates = self.updates
            return other

        def after_update(self, metrics: Any, samples: int) -> dict[str, float]:
            self.updates += 1
            return {"updates": float(self.updates)}

        def state(self) -> dict[str, float]:
            return {"updates": float(self.updates)}

        def restore(self, state: Any) -> None:
            if self.kept:
                self.updates = int(state["updates"])

    assert testing.check_optimizer(Probe(kept=True)).passed
    assert broken(testing.check_optimizer(Probe(kept=False), raises=False)) == ["state"]


def test_the_loss_of_the_value_role_is_asked_for_alone():
    probe = steps("loss", lambda got, m: 1 / 0 if m.new_values_BT is not None else got, plugin="ppo")
    report = testing.check_optimizer(probe, raises=False)
    assert broken(report) == ["loss"]
    assert "ZeroDivisionError" in report["loss"].why
    assert "new_values_BT alone" in report["loss"].why
    probe = steps(
        "loss", lambda got, m: (got[0].detach(), got[1]) if m.new_values_BT is not None else got, plugin="ppo"
    )
    assert "one that hangs on new_values_BT" in testing.check_optimizer(probe, raises=False)["loss"].why
    assert "of the value role" in testing.check_optimizer("ppo")["loss"].why


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return rollouts.tiny_backbone(tmp_path_factory.mktemp("tiny"))


def samples(change: Callable[..., Any]) -> Any:
    """The kit's engine with its samples changed."""
    kind = type(registry.build("rollout", {"name": "native"}))

    def generate(self: Any, backbone: Any, prompts: Any, n: int, seed: int, role: str = "policy") -> Any:
        return change(kind.generate(self, backbone, prompts, n, seed, role))

    return type("Probe", (kind,), {"generate": generate})()


def each(change: Callable[[Sample], None]) -> Callable[[list[Sample]], list[Sample]]:
    def changed(made: list[Sample]) -> list[Sample]:
        for sample in made:
            change(sample)
        return made

    return changed


def setting(**values: Any) -> Callable[[list[Sample]], list[Sample]]:
    return each(lambda sample: [setattr(sample, name, value) for name, value in values.items()] and None)


BROKEN_ROLLOUTS = {
    "settings": lambda: type("Probe", (), {"generate": lambda self, *given: []})(),
    "runs": lambda: samples(lambda made: 1 / 0),
    "count": lambda: samples(lambda made: made[1:]),
    "order": lambda: samples(lambda made: made[::-1]),
    "tokens": lambda: samples(each(lambda sample: setattr(sample, "logprobs", list(sample.logprobs or ())[1:]))),
    "text": lambda: samples(each(lambda sample: setattr(sample, "text", sample.text + "!"))),
    "finished": lambda: samples(each(lambda sample: setattr(sample, "finished", not sample.finished))),
    "logprobs": lambda: samples(
        each(lambda sample: setattr(sample, "logprobs", [-0.5 for _ in sample.logprobs or ()]))
    ),
    "quiet": lambda: samples(lambda made: print("x" * 19000) or made),
}


@pytest.mark.parametrize("id", sorted(BROKEN_ROLLOUTS))
def test_a_rollout_engine_that_breaks_one_promise(id, backbone):
    assert broken(testing.check_rollout(BROKEN_ROLLOUTS[id](), raises=False, backbone=backbone)) == [id]


def test_text_and_end_are_not_said_to_be_kept_where_stop_strings_hide_them(backbone):
    engine = registry.build("rollout", {"name": "native", "stop": ["tea"]})
    report = testing.check_rollout(engine, raises=False, backbone=backbone)
    assert [report[id].ok for id in ("text", "finished")] == [None, None]
    assert "stop strings" in report["text"].why


def test_a_rollout_engine_that_does_not_use_its_seed(backbone):
    kind = type(registry.build("rollout", {"name": "native"}))

    class Fixed(kind):  # type: ignore[misc, valid-type]
        def generate(self, backbone, prompts, n, seed, role="policy"):
            return kind.generate(self, backbone, prompts, n, 0, role)

    assert broken(testing.check_rollout(Fixed(), raises=False, backbone=backbone)) == ["seed"]


def test_a_report_tells_what_is_broken_and_what_to_do():
    class Wrong:
        def score(self, samples):
            return ["1" for _ in samples]

    report = testing.check_reward(Wrong(), raises=False)
    assert str(report).splitlines() == [
        "reward Wrong breaks 'type' (a score is a number, a Score, or None): given '1', a str for sample 0 "
        "('certainly tea soup and bread'); wanted a number, a Score, or None; to do: convert it: float(value)"
    ]
    assert Path(testing.__file__ or "").is_file()
