"""The command line: bad input gives exit 2 and one message, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import jsonl, overrides

from rlhf_lora import cli

Make = Callable[[Path, Path], list[str]]
REWARD = "from rlhf_lora import reward\n@reward"
FEW = ("dataset.pairs=0", "dataset.demonstrations=200", "dataset.prompts=200")
PAIR = {"prompt": "tea", "chosen": "yes", "rejected": "no"}


def pairs(count: int = 60) -> list[dict[str, Any]]:
    return [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(count)]


def said(text: str) -> Make:
    return lambda tmp, base: text.split(" ")


def file(name: str, text: str, *more: str) -> Make:
    """A plugin file with `text`, and overrides after it."""

    def make(tmp: Path, base: Path) -> list[str]:
        (tmp / name).write_text(text)
        return [f"plugins=[{tmp / name}]", *more]

    return make


def data(text: str, *more: str, name: str = "data.jsonl") -> Make:
    def make(tmp: Path, base: Path) -> list[str]:
        (tmp / name).write_text(text)
        return ["dataset=jsonl", f"dataset.path={tmp / name}", *more]

    return make


def labels(text: str, head: str = '{"format": "labels/1"}') -> Make:
    def make(tmp: Path, base: Path) -> list[str]:
        (tmp / "labels.jsonl").write_text(f"{head}\n{text}")
        return ["dataset=labels", f"dataset.path={tmp / 'labels.jsonl'}"]

    return make


def model(change: Callable[[Path], object]) -> Make:
    """A copy of the tiny model, changed."""

    def make(tmp: Path, base: Path) -> list[str]:
        shutil.copytree(base, tmp / "model")
        change(tmp / "model")
        return [f"model.path={tmp / 'model'}"]

    return make


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_end_token(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["eos_token"] = None
    file.write_text(json.dumps(settings))


def broken_adapter(change: Callable[[Path], object], key: str = "model.adapter") -> Make:
    """An adapter in a folder where something is broken."""

    def make(tmp: Path, base: Path) -> list[str]:
        given = foreign_adapter(key, width=64)(tmp, base)
        change(tmp / "adapter")
        return given

    return make


def weights_as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def foreign_adapter(key: str, *more: str, width: int = 32) -> Make:
    """An adapter whose weights are 32 wide; those of the model are 64."""

    def make(tmp: Path, base: Path) -> list[str]:
        import torch
        from safetensors.torch import save_file

        folder = tmp / "adapter"
        folder.mkdir()
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
        save_file(
            {f"{name}A.weight": torch.zeros(4, width), f"{name}B.weight": torch.zeros(width, 4)},
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
        (folder / "reward.json").write_text('{"gain": 1.0, "bias": 0.0}')
        return [*more, f"{key}={folder}"]

    return make


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


BAD: dict[str, tuple[Make, str]] = {
    # what is not there
    "reward": (said("reward=lenght"), "did you mean 'length'"),
    "optimizer": (said("optimizer=ppp"), "did you mean 'ppo'"),
    "dataset": (said("dataset=order"), "did you mean 'orders'"),
    "override": (said("optimizer.bata=0.1"), "did you mean 'optimizer.beta'"),
    "top setting": (said("sed=1"), "did you mean 'seed'"),
    "setting of another plugin": (said("reward=length reward.path=x"), "to do: settings of reward: reward.target\n"),
    "setting of nothing": (said("foo.bar=1"), "foo"),
    "group": (said("+modell=mini"), "modell"),
    "option": (said("model=qwen3_4bb"), "did you mean 'qwen3_4b'"),
    "experiment": (said("experiment=nothing"), "nothing"),
    "deleted key": (said("~reward"), "cannot be taken away"),
    "code in a config": (said("+reward._target_=os.system"), "_target_"),
    "code in a new key": (said("+x._target_=os.system"), "'x'"),
    "code in adamw": (said("+optimizer.adamw._target_=os.system"), "_target_"),
    "not an override": (said("seed"), "seed"),
    "unbalanced": (said("stages=[sft"), "stages=[sft"),
    "interpolation": (said("seed=${nothing}"), "nothing"),
    # types and ranges
    "text for a number": (said("seed=many"), "seed"),
    "fraction for a count": (said("optimizer.updates=1.5"), "updates"),
    "list for a number": (said("optimizer.beta=[1,2]"), "beta"),
    "text for yes or no": (said("cache=perhaps"), "cache"),
    "seed below zero": (said("seed=-1"), "seed is -1"),
    "rank zero": (said("adapter.r=0"), "adapter.r is 0"),
    "dropout": (said("adapter.dropout=0.1"), "adapter.dropout"),
    "temperature zero": (said("rollout.temperature=0"), "temperature"),
    "temperature nan": (said("rollout.temperature=nan"), "temperature"),
    "negative learning rate": (said("optimizer.adamw.lr=-1"), "adamw.lr"),
    "negative sft learning rate": (said("sft.adamw.lr=-1"), "adamw.lr"),
    "sft batch zero": (said("sft.batch_size=0"), "batch_size"),
    "sft schedule": (said("sft.schedule=cosin"), "schedule"),
    "minibatch": (said("optimizer.minibatch_size=7"), "minibatch_size 7 does not divide"),
    "no prompts in a rollout": (said("optimizer.prompts_per_update=0 optimizer.updates=null"), "prompts_per_update"),
    "negative beta": (said("optimizer.beta=-0.1"), "beta"),
    "beta nan": (said("optimizer.beta=nan"), "beta"),
    "dpo beta": (said("optimizer=dpo optimizer.beta=0"), "beta must be > 0"),
    "dpo loss": (said("optimizer=dpo optimizer.loss=sigmoidd"), "loss must be one of"),
    "splits": (said("splits.sft=50"), "add up to 130"),
    "negative split": (said("splits.sft=-5"), "share sft"),
    "device": (said("hardware.device=tpu"), "no device 'tpu'"),
    "threads": (said("hardware.threads=0"), "threads is 0"),
    "stage": (said("stages=[foo]"), "no stage 'foo'"),
    "no stages": (said("stages=[]"), "stages is an empty list"),
    "a stage twice": (said("stages=[sft,sft]"), "sft is there 2 times"),
    "stages that are no list": (said("stages=sft"), "stages"),
    "stage that a reward needs": (said("stages=[sft,policy] reward=learned"), "needs the stage reward_model"),
    "evaluation of nothing": (said("evaluation.prompts=0"), "evaluation.prompts is 0"),
    "checkpoint every 0": (said("checkpoint_every=0"), "checkpoint_every is 0"),
    "group mean of one": (said("scoring.missing=group_mean"), "every prompt is answered once"),
    "missing share": (said("scoring.missing_share=1.5"), "scoring.missing_share"),
    "resume": (said("resume=allways"), "resume"),
    "dtype": (said("model.dtype=float16"), "float16"),
    "template": (said("model.template=chatt"), "did you mean 'chat'"),
    "more new tokens than positions": (said("rollout.max_new_tokens=64"), "leave no room"),
    "reward target": (said("reward=length reward.target=0"), "target must be at least 1"),
    "orders items": (said("dataset.items=3"), "items is 3"),
    # settings that cannot be honoured together
    "top-p with exact log-probs": (said("rollout.top_p=0.9"), "fewer tokens than its log-probs are of"),
    "top-k with exact log-probs": (said("rollout=hf rollout.top_k=50"), "fewer tokens than its log-probs are of"),
    "top-p of a rollout of one's own": (
        file("nucleus.py", "from rlhf_lora.registry import rollout\n@rollout('nucleus')\nclass Nucleus:\n"
             "    temperature: float = 1.0\n    top_p: float = 0.95\n    max_new_tokens: int = 4\n"
             "    def generate(self, backbone, prompts, n, seed, role='policy'): return []\n", "rollout=nucleus"),
        "rollout.top_p=0.95 draws from fewer tokens",
    ),
    "whitening few": (
        said("optimizer.whiten_rewards=true optimizer.minibatch_size=4"), "whiten_rewards needs minibatch_size ≥ 8"
    ),
    "override against a profile": (said("profile=oai2019 optimizer.beta=0.3"), "optimizer.beta=0.15, here 0.3"),
    "optimizer against a profile": (said("profile=tldr2024 optimizer=dpo"), "made of optimizer=ppo"),
    "override against a control": (
        said("control=flipped_reward reward_model.labels=as_given profile_overrides=true"), "fixes reward_model.labels"
    ),
    "reward against a control": (said("control=random_reward reward=length"), "made of reward=random"),
    "a control that nothing learns from": (said("control=flipped_reward reward=length"), "learns from pairs"),
    "labels": (said("reward_model.labels=fliped"), "did you mean 'flipped'"),
    "gamma": (said("optimizer.gamma=1.5"), "gamma must be in [0, 1]"),
    "lambda": (said("optimizer.lam=-0.1"), "lam must be in [0, 1]"),
    "lambda nan": (said("optimizer.lam=nan"), "lam must be in [0, 1]"),
    "kl target zero": (said("optimizer.kl_target=0"), "kl_target must be above 0"),
    "kl target below zero": (said("optimizer=rloo optimizer.kl_target=-1"), "kl_target must be above 0"),
    "response length zero": (said("rollout.max_new_tokens=0"), "max_new_tokens is 0"),
    "response length zero in hf": (said("rollout=hf rollout.max_new_tokens=0"), "max_new_tokens is 0"),
    "minibatch of a group": (
        said("optimizer=grpo optimizer.prompts_per_update=3 optimizer.samples_per_prompt=4 optimizer.minibatch_size=5"),
        "minibatch_size 5 does not divide the 12",
    ),
    # models and adapters
    "no model": (said("model.path=./nowhere"), "no model folder"),
    "model without config": (model(lambda f: (f / "config.json").unlink()), "no config.json"),
    "model without weights": (model(lambda f: (f / "model.safetensors").unlink()), "no weights"),
    "model as pickle": (model(weights_as_pickle), "never unpickles"),
    "config that is no JSON": (model(lambda f: (f / "config.json").write_text("{")), "config.json"),
    "config of nothing": (model(lambda f: (f / "config.json").write_text("{}")), "config.json"),
    "weights that are none": (model(lambda f: (f / "model.safetensors").write_bytes(b"no")), "could not be loaded"),
    "no tokenizer": (model(lambda f: [t.unlink() for t in f.glob("tokenizer*")]), "tokenizer"),
    "no start adapter": (said("model.adapter=./nowhere"), "no adapter in"),
    "start adapter of another base": (foreign_adapter("model.adapter"), "made for another base"),
    "no reward model": (said("reward=learned reward.path=./nowhere"), "no reward model in"),
    "reward model of another base": (foreign_adapter("reward.path", "reward=learned"), "another base"),
    "cut weights": (model(lambda f: cut(f / "model.safetensors")), "could not be loaded"),
    "tokenizer without end token": (model(without_end_token), "no end token"),
    "cut adapter": (broken_adapter(lambda f: cut(f / "adapter_model.safetensors")), "adapter_model.safetensors"),
    "adapter without weights": (broken_adapter(lambda f: (f / "adapter_model.safetensors").unlink()), "adapter"),
    "adapter config that is no JSON": (broken_adapter(lambda f: cut(f / "adapter_config.json")), "adapter_config.json"),
    "adapter that is no LoRA": (
        broken_adapter(lambda f: (f / "adapter_config.json").write_text('{"peft_type": "IA3"}')), "IA3"
    ),
    "adapter as pickle": (
        broken_adapter(lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin")), "pickle"
    ),
    "best of no evaluations": (said("evaluation.keep=best"), "evaluation.every"),
    "policy without rows for it": (said("splits={sft:40,reward_model:50,prompts:0,tuning:5,final:5}"), "prompts"),
    "lora on nothing": (said("adapter.target_modules=[nothing]"), "nothing"),
    "lora on something and on nothing": (said("adapter.target_modules=[q_proj,q_porj]"), "no layer called q_porj"),
    "lora on a number": (said("adapter.target_modules=5"), "adapter.target_modules is 5"),
    "lora on no layers": (said("adapter.target_modules=[]"), "names of linear layers"),
    "endless temperature": (said("rollout.temperature=inf"), "finite"),
    "seed that torch cannot hold": (said("seed=99999999999999999999"), "seed"),
    "card of a negative size": (said("hardware.memory_gib=-1"), "above 0"),
    "endless beta of dpo": (said("optimizer=dpo optimizer.beta=inf"), "finite"),
    "shape of one number": (said("model.path=foo/bar model.shape.hidden=4"), "no heads"),
    "shape with a number too many": (said("model=qwen3_0_6b model.path=foo/bar model.shape.foo=1"), "'foo'"),
    "jsonl without model": (lambda tmp, base: ["model.path=null", *data(lines(pairs()))(tmp, base)], "give a model"),
    # data
    "jsonl without path": (said("dataset=jsonl"), "dataset.path"),
    "no data file": (said("dataset=jsonl dataset.path=./nothing.jsonl"), "nothing.jsonl"),
    "empty file": (data(""), "data.jsonl"),
    "broken line": (data(lines(pairs(3)) + '{"prompt": \n'), "line 4"),
    "no known columns": (data('{"foo": "a", "bar": "b"}\n'), "foo"),
    "chosen is rejected": (
        data(lines([PAIR | {"prompt": str(i), "rejected": "yes"} for i in range(20)])), "none of the 20 rows"
    ),
    "nested messages": (
        data(lines([{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}] * 9)), "content"
    ),
    "labels of one kind": (
        data(lines([{"prompt": f"p{i}", "completion": "a", "label": True} for i in range(99)]), "stages=[reward_model]"),
        "labels to learn from are all good",
    ),
    "labels in place of pairs": (
        data(lines([{"prompt": f"p{i}", "completion": "a", "label": i % 2 == 0} for i in range(99)]), "stages=[reward_model]",
             "reward_model.loss=pairwise"), "pairs"
    ),
    "numbers for labels": (data(lines([{"prompt": "p", "completion": "a", "label": 1}] * 9)), "label"),
    "conversations that end with the user": (
        data(lines([{"messages": [{"role": "user", "content": "Hi"}]}] * 9)), "does not end with an assistant"
    ),
    "a limit of no rows": (data(lines(pairs()), "dataset.limit=0"), "limit"),
    "too few rows": (data(lines(pairs(2))), "needs"),
    "unknown format": (data(lines(pairs()), "dataset.format=prefrence"), "did you mean"),
    "column that a reward wants": (
        lambda tmp, base: [
            *data(lines(pairs()))(tmp, base),
            *file("wants.py", f"{REWARD}('wants_answer')\ndef f(samples, *, answer): return answer\n")(tmp, base),
            "reward=wants_answer",
        ],
        "wants the column 'answer'",
    ),
    "quote in a path": (lambda tmp, base: ["run_dir=/tmp/o'brien/run"], "quote a value"),
    "letter in a path": (lambda tmp, base: ["run_dir=/tmp/\u00fc/run"], 'run_dir="/tmp/\u00fc/run"'),
    # judges, labels, rounds
    "judge": (said("reward=ai_feedback judge=scriptd"), "did you mean 'scripted'"),
    "truth of a judge": (said("reward=ai_feedback judge=scripted judge.truth=orders_golf"), "judge.truth=orders_golf"),
    "setting of another judge": (said("reward=ai_feedback judge=scripted judge.rubric=x"), "no setting 'judge.rubric'"),
    "server without a model": (said("reward=ai_feedback judge=openai_api"), "judge.model is not given"),
    "key in the settings": (
        said("reward=ai_feedback judge=openai_api judge.model=m judge.api_key_env=sk-0123456789abcdefghij"),
        "not the name of an environment variable",
    ),
    "rubric": (said("reward=ai_feedback judge=local judge.rubric=none.txt"), "none.txt cannot be read: No such file"),
    "empty constitution": (
        lambda tmp, base: [
            f"revisions.constitution={(tmp / 'c.txt', (tmp / 'c.txt').write_text(''))[0]}", "revisions.rounds=1"
        ],
        "c.txt is empty",
    ),
    "no constitution": (said("revisions.rounds=1 revisions.constitution=none.txt"), "cannot be read: No such file"),
    "measure of revisions": (said("revisions.rounds=1 revisions.measure=[harm]"), "no reward named 'harm'"),
    "refresh without rounds": (said("reward=learned refresh.by=orders_gold"), "refresh.by"),
    "refresh of no reward model": (said("rounds=2 refresh.by=orders_gold"), "refresh.by"),
    "no rounds": (said("rounds=0"), "rounds is 0"),
    "rounds of the same rows": (said("rounds=2 optimizer=dpo optimizer.pairs=relabel"), "the same rows in every round"),
    "labels file": (said("dataset=labels dataset.path=none.jsonl"), "none.jsonl"),
    "labels with a broken line": (labels('{"kind": "comparison", "prompt": "Na\n'), "line 2"),
    "labels of a later version": (labels("", '{"format": "labels/9"}'), "did you mean 'labels/1'"),
    "labels off the menu": (
        labels('{"kind": "comparison", "prompt": "p", "answers": ["a", "b"], "label": "C"}\n'), "it is A, B or tie"
    ),
    "labels with a slip": (
        labels('{"kind": "comparison", "prompt": "p", "answers": ["a", "b"], "lable": "A"}\n'), "did you mean 'label'"
    ),
    # plugin files
    "no plugin file": (said("plugins=[./nothing.py]"), "no plugin file"),
    "plugin that raises": (file("bad.py", "import os\nx = 1 / 0\n"), "bad.py, line 2"),
    "plugin with a syntax error": (file("worse.py", "def f(:\n"), "worse.py, line 1"),
    "plugin that defines nothing": (file("idle.py", "x = 1\n"), "registers no plugin"),
    "plugin without its method": (
        file("half.py", f"{REWARD}('half')\nclass Half:\n    x: int = 1\n"), "no method score"
    ),
    "plugin with a name that is taken": (
        file("mine.py", f"{REWARD}('length')\ndef f(samples): return [0.0]\n"), "two plugins want the name reward=length"
    ),
    "plugin setting of a wrong type": (
        file("typed.py", f"{REWARD}('typed')\nclass T:\n    x: int = 1\n    def score(self, samples): return []\n",
             "reward=typed", "reward.x=a"), "x"
    ),
}  # fmt: skip


# Fast are those that a user meets first; the others are as many again, and run with the slow tests.
FAST = """
reward|override|group|option|deleted key|code in a config
code in a new key|not an override|text for a number
seed below zero|rank zero|negative learning rate|splits|device
no stages
stage|stage that a reward needs|evaluation of nothing|no model
model without weights|model as pickle|no tokenizer|start adapter of another base|no reward model
reward model of another base|jsonl without path|empty file|broken line|no known columns
top-p with exact log-probs|override against a profile
chosen is rejected|column that a reward wants|no plugin file|plugin that raises|plugin with a syntax error
plugin with a name that is taken
judge|labels with a broken line|refresh without rounds
""".strip().replace("\n", "|").split("|")  # fmt: skip


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in BAD])
def test_bad_input_ends_with_2_and_one_message_and_leaves_nothing_behind(
    case, tmp_path, tiny_base, capsys, monkeypatch
):
    make, told = BAD[case]
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    given = make(tmp_path, tiny_base)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    code = cli.run(["train", *overrides(tiny_base, tmp_path / "run", "reward=orders_gold", *given)])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    message = captured.err[captured.err.index("rlhf-lora: ") :]
    assert told.lower() in message.lower()
    assert "Traceback" not in captured.err
    assert "where: " in message or "override" in message
    assert "to do: " in message
    assert (
        captured.out.replace("[INFO] Running in WANDB offline mode\n", "") == ""
    )  # Transformers', at its first import
    assert [
        p
        for p in sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
        if p not in before and "__pycache__" not in p.parts
    ] == []


def test_a_full_disk_is_one_message_and_not_our_fault(monkeypatch, capsys):
    def full(*given: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl")

    monkeypatch.setitem(cli.VERBS, "train", full)
    assert cli.run(["train"]) == 3
    assert "disk is full\n  where: run/metrics.jsonl\n  to do: " in capsys.readouterr().err


def test_there_are_many_bad_inputs():
    assert len(BAD) > 90
    assert set(FAST) <= set(BAD)


# --- verbs and flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "did you mean 'train'"), (["train", "--jsn"], "no flag '--jsn'"),
        (["plan", "--jsn"], "did you mean '--json'"), (["train", "--json"], "no flag '--json'"),
        (["plan", "sweep=beta_optuna"], "is for a sweep"),
        (["--nothing"], "no flag '--nothing'"), (["plugins", "rewards"], "did you mean 'reward'"),
        (["evaluate"], "one run folder, got 0"), (["evaluate", "nowhere"], "nowhere does not exist"),
        (["evaluate", "judge=scripted", "dataset=jsonl"], "dataset.path is not given"),
        (["evaluate", "judge=scriptd"], "did you mean 'scripted'"),
        (["evaluate", "judge=scripted", "-n", "few"], "-n wants a number of pairs"),
        (["evaluate", "judge=scripted", "--to", "rows.csv"], "neither JSON lines nor Parquet"),
        (["chat"], "one run folder, got 0"), (["chat", "."], "is no run folder"),
        (["chat", ".", "--best-of", "0"], "--best-of wants a number"),
        (["report"], "at least one run folder"),
        (["report", "nowhere"], "nowhere does not exist"), (["plan", "reward=lenght"], "did you mean 'length'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_verbs_flags_and_runs_are_refused(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(arguments, capsys):
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"rlhf-lora {verb}" in out for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_and_does_nothing_else(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run([verb, "optimizer=nothing", "--help"]) == 0
    assert f"rlhf-lora {verb}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_our_own_fault_is_not_hidden(monkeypatch):
    def broken(words, as_json):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.VERBS, "plan", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["plan"])


def test_a_reader_that_hangs_up_is_no_error(monkeypatch):
    def broken(words, as_json):
        raise BrokenPipeError

    monkeypatch.setitem(cli.VERBS, "plan", broken)
    assert cli.run(["plan"]) == 0


# --- plan and plugins -------------------------------------------------------------------------------------------------


def test_plan_as_json_parses_and_writes_nothing(capsys, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["plan", "--json", *overrides(tiny_base, tmp_path / "run")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["sft", "reward_model", "policy"]
    assert plan["config"]["optimizer"]["updates"] == 3
    assert plan["config"]["optimizer"]["adamw"]["lr"] > 0  # what was null is derived
    assert plan["config"]["hardware"]["device"] == "cpu"
    assert list(tmp_path.iterdir()) == []


def test_plan_for_people_shows_stages_memory_and_every_setting(capsys, tiny_base, tmp_path):
    assert cli.run(["plan", *overrides(tiny_base, tmp_path / "run", "hardware.memory_gib=8")]) == 0
    out = capsys.readouterr().out
    for part in (
        "sft",
        "reward_model",
        "policy",
        "memory",
        "fits",
        "optimizer.beta=0.05",
        "rollout.max_new_tokens=8",
        "run folder",
    ):
        assert part in out
    assert not (tmp_path / "run").exists()


def test_plan_may_be_for_another_machine(capsys):
    assert cli.run(["plan", "--json", "model=qwen3_4b", "hardware=gpu_12gb", "reward=length", *FEW]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["device"], plan["fits"]) == ("cuda", True)


def test_train_on_a_card_that_is_not_there_is_refused_and_leaves_nothing(capsys, tiny_base, tmp_path):
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run", "hardware.device=cuda")]) == 2
    assert "no CUDA card" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_plugins_lists_every_kind_with_settings_and_origin(capsys):
    assert cli.run(["plugins", "--json"]) == 0
    found = {(p["kind"], p["name"]): p for p in json.loads(capsys.readouterr().out)}
    names = "reward.learned reward.length optimizer.ppo optimizer.dpo dataset.orders dataset.jsonl rollout.native rollout.hf"
    for one in (tuple(name.split(".")) for name in f"{names} tracker.local tracker.wandb".split()):
        assert one in found
        assert found[one]["summary"]
    assert found["reward", "length"]["settings"]["target"] == {"type": "int", "default": 50}
    assert found["dataset", "jsonl"]["settings"]["path"]["default"] == "???"


def test_plugins_of_one_kind_and_of_a_file(capsys, tmp_path):
    text = (
        f'{REWARD}("listed")\ndef listed(samples, *, share: float = 0.5):\n    """Just a test."""\n    return [share]\n'
    )
    (tmp_path / "mine.py").write_text(text)
    assert cli.run(["plugins", "reward", f"plugins=[{tmp_path / 'mine.py'}]"]) == 0
    out = capsys.readouterr().out
    assert "reward=listed  Just a test." in out
    assert "reward.share=0.5  (float)" in out
    assert "mine.py:2" in out
    assert "optimizer=" not in out


def test_jsonl_rows_of_other_shapes_are_planned(capsys, tiny_base, tmp_path):
    path = jsonl(tmp_path / "p.jsonl", pairs(200))
    assert (
        cli.run(
            [
                "plan",
                "--json",
                f"model.path={tiny_base}",
                "dataset=jsonl",
                f"dataset.path={path}",
                "rollout.max_new_tokens=8",
            ]
        )
        == 0
    )
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert splits["pairs"] > 0
    assert splits["prompts"] > 0
