"""Tiny models, made here in a second and laid out as users' models are, and a run that is over in a few seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest


def few(cases: Iterable[Any], fast: int) -> list[Any]:
    """Cases of a table for `parametrize`: every so many is fast, `fast` in all, and the others are slow tests."""
    given = list(cases)
    kept = {round(i * (len(given) - 1) / max(1, fast - 1)) for i in range(fast)}
    return [
        case if i in kept else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for i, case in enumerate(given)
    ]


# What is judged here is the kit, not its defaults: those may move without a test's numbers moving.
STEPS = (
    "dataset.items=16",
    "dataset.seed=0",
    "dataset.tau=1.0",
    "dataset.demonstrations=80",
    "dataset.pairs=120",
    "dataset.prompts=240",
    "sft.epochs=1",
    "sft.batch_size=16",
    "reward_model.epochs=1",
    "splits={sft: 20, reward_model: 55, prompts: 15, tuning: 5, final: 5}",
    "optimizer.beta=0.05",
    "optimizer.kl_target=null",
    "optimizer.updates=3",
    "optimizer.prompts_per_update=12",
    "optimizer.minibatch_size=4",
    "optimizer.epochs=2",
    "hardware.micro_batch=4",
    "hardware.device=cpu",
    "evaluation.prompts=6",
    "checkpoint_every=1",
    "samples_every=1",
    "rollout.max_new_tokens=8",
)


def labels_model(folder: Path) -> Path:
    """The files by which a reward model of labels is known, without weights: a plan looks no further."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.json").write_text(json.dumps({"gain": 1.0, "bias": 2.0, "logit_of": "good"}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def overrides(base: Path, run_dir: Path, *more: str) -> list[str]:
    """A whole run of three updates on the orders task; `more` overrides it."""
    given = {o.partition("=")[0]: o for o in (f"model.path={base}", f"run_dir={run_dir}", *STEPS)}
    for kind, plugin in (("optimizer", "ppo"), ("dataset", "orders")):  # another plugin has other settings
        if any(o.startswith(f"{kind}=") and o != f"{kind}={plugin}" for o in more):
            given = {key: o for key, o in given.items() if not key.startswith(f"{kind}.")}
    return list((given | {o.partition("=")[0]: o for o in more}).values())


def spec(path: Path, **changes: Any) -> Any:
    from rlhf_lora.model_spec import LoraSpec, ModelSpec

    return ModelSpec(str(path), lora=changes.pop("lora", LoraSpec(r=4, alpha=8)), **changes)


def stir(made: Any, name: str, size: float = 0.05) -> None:
    """Give a role of a backbone weights of its own: with B = 0 every role would be the base."""
    import torch

    draw = torch.Generator().manual_seed(int.from_bytes(name.encode()[:4], "big"))
    with torch.no_grad():
        for parameter in made.parameters(name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)


def prompts(count: int) -> list[Any]:
    """Orders: of different lengths, so that padding is never nothing."""
    from rlhf_lora.mini import orders
    from rlhf_lora.records import Prompt

    triples = orders.triples(8)
    return [
        Prompt(orders.prompt_text(triples[(37 * i) % len(triples)], i % len(orders.TEMPLATES))) for i in range(count)
    ]


def token_ids(chat: Any, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and answers of one to `count` words."""
    texts = [
        "certainly tea soup and bread",
        "tea",
        "ugh whatever soup",
        "gladly rice with fish",
        "sure",
        "milk milk milk cake",
    ]
    asked = prompts(count)
    return [chat.prompt_ids(p) for p in asked], [
        chat.response_ids(texts[i % len(texts)], i % 2 == 0) for i in range(count)
    ]


def build_qwen2(folder: Path) -> None:
    """Qwen2: biases on q, k and v, grouped heads, embeddings tied to the output, byte pairs, padding id = end id."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _byte_pairs()
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _byte_pairs() -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import Qwen2Tokenizer

    trained = ByteLevelBPETokenizer()
    text = [p.text for p in prompts(200)] + [
        "certainly tea soup and bread",
        "ugh whatever soup",
        "gladly rice with fish",
    ]
    trained.train_from_iterator(text, vocab_size=320, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"], merges=merges, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|im_end|>"
    )


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
