"""One update by the trainer of trl 1.12.0 itself, on a rollout that is given: run with that release on PYTHONPATH.

    python trl_update.py FOLDER

FOLDER has `job.json` (settings, base, prompts) and `start.safetensors` (weights, tokens, scores); it gets `end-MODE.safetensors`
(weights) and `end-MODE.json` (what was logged). MODE is `population`, where whitening is made to divide by the deviation of
the population, and `released`, where nothing is changed. The trainer is lent three things: the answers, in place of its
sampler; their scores, in place of a reward model; and prompts in the order given.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def main(folder: Path) -> None:
    import trl

    assert trl.__version__ == "1.12.0", trl.__file__
    job, start = json.loads((folder / "job.json").read_text()), load_file(folder / "start.safetensors")
    for mode in ("population", "released"):
        trainer = one_update(mode, folder / "trainer", job, start)
        end = weights(trainer.policy_model, "policy") | weights(trainer.value_model, "value")
        save_file({name: p.detach().clone() for name, p in end.items()}, folder / f"end-{mode}.safetensors")
        (folder / f"end-{mode}.json").write_text(json.dumps(trainer.state.log_history[-1]))


def one_update(mode: str, out: Path, job: dict[str, Any], start: dict[str, torch.Tensor]) -> Any:
    from transformers import AutoModelForCausalLM
    from trl.experimental.ppo import PPOConfig, ppo_trainer

    policy, value = models(job, start)
    reference = AutoModelForCausalLM.from_pretrained(job["base"])
    trained = [p for model in (policy, value) for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=job["lr"], betas=(0.9, 0.999), eps=job["eps"], weight_decay=0.0)
    lend(ppo_trainer, mode, start)
    given = PPOConfig(
        output_dir=str(out), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        save_strategy="no", num_sample_generations=0, per_device_train_batch_size=len(start["tokens"]),
        gradient_accumulation_steps=1, num_mini_batches=1, total_episodes=len(start["tokens"]), logging_steps=1,
        response_length=start["tokens"].shape[1], temperature=1.0, vf_coef=1.0, **job["ppo"],
    )  # fmt: skip
    trainer = ppo_trainer.PPOTrainer(
        args=given, model=policy, ref_model=reference, value_model=value, reward_model=torch.nn.Linear(1, 1),
        processing_class=SimpleNamespace(pad_token_id=job["pad"], eos_token_id=job["end"]),
        train_dataset=[{"row": i, "input_ids": ids} for i, ids in enumerate(job["prompts"])], data_collator=in_order,
        eval_dataset=[], optimizers=(adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1.0)),
    )  # fmt: skip
    trainer.train()
    return trainer


def models(job: dict[str, Any], start: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Policy and value model: the base twice, each with adapters, the value model with a head that has a bias."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(job["base"])
    value = AutoModelForSequenceClassification.from_pretrained(job["base"], num_labels=1)
    value.score = torch.nn.Linear(policy.config.hidden_size, 1)
    for name, model in (("policy", policy), ("value", value)):
        inject_adapter_in_model(LoraConfig(**job["lora"]), model)
        mine = weights(model, name)
        assert {key for key in start if key.startswith(f"{name}.")} == set(mine), sorted(mine)
        with torch.no_grad():
            for key, parameter in mine.items():
                parameter.copy_(start[key])
        for key, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in key or key.startswith("score."))
    return policy, value


def weights(model: torch.nn.Module, name: str) -> dict[str, torch.nn.Parameter]:
    """What is trained, by the names that the kit has for it."""
    return {
        f"{name}.{key.replace('.default.', '.').replace('score.', 'head.')}": parameter
        for key, parameter in model.named_parameters()
        if "lora_" in key or (name == "value" and key.startswith("score."))
    }


def in_order(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row["input_ids"] for row in sorted(rows, key=lambda row: row["row"])])}


SCORED, VARIANCE = "get_reward", "masked_var"
ORIGINALS: dict[str, Any] = {}


def lend(module: Any, mode: str, start: dict[str, torch.Tensor]) -> None:
    """Give the trainer's module the rollout, the scores and, if wanted, the other variance."""
    for name in (SCORED, VARIANCE):
        ORIGINALS.setdefault(name, getattr(module, name))

    def batch_generation(model: Any, queries: torch.Tensor, size: int, pad: int, config: Any) -> Any:
        whole = torch.cat([queries, start["tokens"]], dim=1)
        logits = module.forward(model, whole, pad).logits[:, queries.shape[1] - 1 : -1]
        return whole, logits / config.temperature  # as `generate` gives them

    def get_reward(model: Any, whole: torch.Tensor, pad: int, width: int) -> Any:
        if type(model) is torch.nn.Linear:
            return None, start["scores"].clone(), None
        return ORIGINALS[SCORED](model, whole, pad, width)

    module.batch_generation, module.get_reward = batch_generation, get_reward
    module.masked_var = partial(ORIGINALS[VARIANCE], unbiased=False) if mode == "population" else ORIGINALS[VARIANCE]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
