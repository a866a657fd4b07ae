"""Lines that the conformance tests guard, each broken on purpose: `python tests/mutations.py [item…]` tells who notices.

The tree is copied, one line is changed, and the named test must fail. One process with the heavy libraries loaded is
forked for each, so that thirty take a few minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "numpy", "safetensors.torch", "pytest")
CAUGHT, PASSED = 1, 0  # pytest's exit codes: a test failed, all passed; whatever else is a broken mutation


class Mutation(NamedTuple):
    """`old` stands exactly once in `file`; with `new` in its place, the test `test` of `tests/conformance` fails."""

    file: str
    old: str
    new: str
    test: str

    @property
    def id(self) -> str:
        return (
            f"{self.test.partition('::test_')[2][:3].rstrip('_')} {self.file}: {self.old.strip().splitlines()[0][:60]}"
        )

    def applied(self, text: str) -> str:
        """The file's text with the line broken.

        Raises:
            ValueError: the line is not there, or there more than once: the list is out of date.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times: {self.old}")
        return text.replace(self.old, self.new)


ADVANTAGES, KL, PPO, LOGPROBS = (f"rlhf_lora/objectives/{n}.py" for n in ("advantages", "kl", "ppo", "logprobs"))
LOOP, UPDATE, STATE = (f"rlhf_lora/stages/{name}.py" for name in ("on_policy", "update", "loop_state"))
BACKBONE, RECORD, ROLLOUT = (
    "rlhf_lora/backbone.py",
    "rlhf_lora/stages/rollout_record.py",
    "rlhf_lora/padding.py",
)
TEXT, FIGURES, ADAPTERS = "test_c_text.py::test_", "test_c_figures.py::test_", "test_l_items.py::test_"
LAST = "last_B = padded.prompt_width - 1 + padded.response_mask_BT.sum(1)"

MUTATIONS = [
    Mutation("rlhf_lora/chat.py", "if i not in self.stop_ids)", "if i in self.stop_ids)", f"{TEXT}C01_padding_id_decides_nothing"),
    Mutation(ROLLOUT, "attention.append([0] * left +", "attention.append([1] * left +", f"{TEXT}C02_left_padding"),
    Mutation(ROLLOUT, "(attention_BS.cumsum(1) - 1).clamp(min=0)", "attention_BS.new_ones(attention_BS.shape).cumsum(1) - 1",
             f"{TEXT}C03_positions"),
    Mutation("rlhf_lora/loading.py", "            module.p = 0.0", "            pass", f"{TEXT}C04_no_dropout"),
    Mutation("plugins/rollouts/native.py", "yield tokens_T[:length], logprobs_T[:length]",
             "yield tokens_T[:length], logprobs_T[1 : length + 1]", f"{TEXT}C05_stopping_early"),
    Mutation(LOGPROBS, "logits_NV = (hidden_ND.to(head_weight_VD.dtype) @ head_weight_VD.T).float() / temperature",
             "logits_NV = (hidden_ND.to(head_weight_VD.dtype) @ head_weight_VD.T).float()", f"{TEXT}C06_temperature"),
    Mutation("plugins/rollouts/native.py", "torch.multinomial(logprobs_BV.exp(), 1,",
             "torch.multinomial((2 * logprobs_BV).exp(), 1,", f"{TEXT}C07_sampled_is_scored"),
    Mutation(BACKBONE, "padded.prompt_width - 1 : None if behind_end else -1]", "padded.prompt_width :]",
             f"{TEXT}C08_rollout_is_training"),
    Mutation(LOOP, 'self._seed(f"prompts/{epoch}")', 'self._seed("prompts")', f"{TEXT}C09_prompts_cycle"),
    Mutation(BACKBONE, LAST, LAST.replace(" - 1 +", " - 2 +"), f"{TEXT}C10_last_token"),
    Mutation("rlhf_lora/stages/reward_model.py", "lengths_B - 1]", "-1]", f"{TEXT}C10_last_token_in_training"),
    Mutation("rlhf_lora/adapters.py", "torch.nn.init.zeros_(score_head(model).float().weight)", "pass",
             f"{FIGURES}C11_head_starts_at_zero"),
    Mutation(LOOP, 'values.std(unbiased=False)', 'values.std()', f"{FIGURES}C12_normalisation"),
    Mutation(LOOP, "self.state.score_shift = float(values.mean())", "self.state.score_shift = 0.0",
             f"{FIGURES}C13_shift_is_taken_away"),
    Mutation(LOOP, 'if against == "reference" and deviation > 1e-8', "if deviation > 1e-8",
             f"{FIGURES}C13_mean_over_demonstrations"),
    Mutation("rlhf_lora/trainers.py", "round(settings.warmup * steps)", "round(settings.warmup * steps) + 5",
             f"{FIGURES}C14_one_epoch_and_linear_decay"),
    Mutation("plugins/rollouts/stops.py", "return text[: min(at for at in found if at >= 0)] if", "return text if",
             f"{TEXT}C15_reward_reads_what_is_shown"),
    Mutation("plugins/rollouts/stops.py", "max(0, begun + 1 - len(one))", "begun + 1", f"{TEXT}C21_truncate_after"),
    Mutation(BACKBONE, "head.weight.zero_() if weight is None", "head.weight.fill_(0.1) if weight is None",
             f"{TEXT}C20_values_start_at_zero"),
    Mutation("plugins/rollouts/hf.py", "next((i + 1 for i", "next((i for i", f"{TEXT}C21_nothing_behind_the_end"),
    Mutation("plugins/optimizers/on_policy.py", "return rewards_B.where(batch.finished_B, cut_B)",
             "return rewards_B + cut_B.where(~batch.finished_B, 0.0)", f"{FIGURES}C22_penalty_replaces"),
    Mutation("plugins/optimizers/on_policy.py", "cut_B = rewards_B + penalty if",
             "cut_B = rewards_B - penalty if", f"{FIGURES}C22_penalty_is_added"),
    Mutation("plugins/optimizers/ppo.py", "value_mask_BT.sum(1) - 1] += terminal_B", "0] += terminal_B",
             f"{FIGURES}C23_reward_per_token"),
    Mutation("plugins/optimizers/ppo.py", "if s.whiten_rewards:", "if not s.whiten_rewards:",
             f"{FIGURES}C27_order_of_whitening"),
    Mutation(PPO, "(logprobs_BT - old_logprobs_BT) * mask_BT", "logprobs_BT - old_logprobs_BT",
             f"{FIGURES}C24_where_a_score_stands"),
    Mutation("plugins/optimizers/ppo.py", "batch.returns_BT, batch.value_mask_BT, s.value_clip",
             "batch.returns_BT, batch.mask_BT, s.value_clip", f"{FIGURES}C24_where_a_score_stands_behind_the_end"),
    Mutation(LOOP, "has_room_B = mask_BT.sum(1) < self", "has_room_B = mask_BT.sum(1) <= self",
             f"{FIGURES}C24_where_a_score_stands_behind_the_end"),
    Mutation(BACKBONE, "None if behind_end else -1", "-1", f"{FIGURES}C24_the_value_behind_the_end_is_of_the_state_after_it"),
    Mutation(UPDATE, 'role == "value" and self.optimizer.value_behind_end', "False",
             f"{FIGURES}C24_the_value_behind_the_end_is_of_the_state_after_it"),
    Mutation(UPDATE, 'batch.value_mask_BT if role == "value" else batch.mask_BT', "batch.mask_BT",
             f"{FIGURES}C34_micro_batches"),
    Mutation(KL, "-0.2), 0.2)", "-0.1), 0.1)", f"{FIGURES}C25_adaptive_kl"),
    Mutation(ADVANTAGES, "variance = masked_mean((x_BT - mean) ** 2, over_BT)",
             "variance = ((x_BT - mean) ** 2 * over_BT).sum() / (over_BT.sum() - 1)", f"{FIGURES}C26_whitening"),
    Mutation(ADVANTAGES, "delta_B = rewards_BT[:, t] + gamma * next_value_B", "delta_B = rewards_BT[:, t] + next_value_B",
             f"{FIGURES}C28_gae"),
    Mutation(UPDATE, 'f"minibatches/{update}/{epoch}"', 'f"minibatches/{update}"', f"{FIGURES}C29_fresh_order_each_epoch"),
    Mutation(PPO, "worst_BT = torch.maximum(error_BT, (near", "worst_BT = torch.minimum(error_BT, (near",
             f"{FIGURES}C30_value_loss"),
    Mutation(PPO, "loss = mean(torch.maximum(", "loss = mean(torch.minimum(", f"{FIGURES}C31_policy_loss"),
    Mutation(LOOP, " logprobs_BT=padded(", " logprobs_BT=0.99 * padded(",
             f"{FIGURES}C32_nothing_has_moved_at_first"),
    Mutation(UPDATE, "share = self._weight(_counted(minibatch.batch, role)) / total", "share = len(index) / len(rows)",
             f"{FIGURES}C34_micro_batches"),
    Mutation(RECORD, "float(-masked_mean(batch.logprobs_BT, batch.mask_BT))", "float(-batch.logprobs_BT.mean())",
             f"{FIGURES}C35_figures_are_masked"),
    Mutation(RECORD, "kl_B = (kl.k1(", "kl_B = (kl.k2(", f"{FIGURES}C36_one_kl"),
    Mutation("rlhf_lora/assembly.py", "bare=self.sft_adapter is None", "bare=True", f"{ADAPTERS}L2_the_declared_reference"),
    Mutation(BACKBONE, "trained = self.roles[name].trained if name in self.roles else True", "trained = True",
             f"{ADAPTERS}L3_nobody_else_moves"),
    Mutation(STATE, '    torch.set_rng_state(tensors["random/torch"])', "    pass", f"{ADAPTERS}L5_going_on_from_a_checkpoint"),
    Mutation(STATE, '    _set_python_streams(saved["random"])', "    pass", f"{ADAPTERS}L5_going_on_from_a_checkpoint"),
    Mutation(BACKBONE, "head.bias.zero_() if bias is None else head.bias.copy_(bias)", "head.bias.zero_()",
             f"{ADAPTERS}L6_the_reward_head_comes_back"),
]  # fmt: skip


def copy_of_the_tree(to: Path) -> Path:
    """Packages as an install lays them out, and the tests; no byte code, which two changes in a second would fool."""
    bare = shutil.ignore_patterns("__pycache__")
    for name, inside in (("rlhf_lora", "rlhf_lora"), ("plugins", "rlhf_lora/plugins"), ("conf", "rlhf_lora/conf")):
        shutil.copytree(ROOT / name, to / inside, ignore=bare)
    shutil.copytree(ROOT / "tests", to / "tests", ignore=bare)
    shutil.copy(ROOT / "pyproject.toml", to / "pyproject.toml")
    return to


def outcome(tree: Path, tests: Sequence[str]) -> int:
    """pytest's exit code for tests of a tree, in a forked process that has imported nothing of ours."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            import pytest

            os.chdir(tree)
            sys.path.insert(0, str(tree))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *_paths(tests)]))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _paths(tests: Sequence[str]) -> list[str]:
    return [f"tests/conformance/{test}" for test in tests]


def run(mutations: Sequence[Mutation]) -> dict[str, int]:
    """Each mutation's exit code, by its id; the unbroken tree's as "none".

    `rlhf_lora` must not have been imported: the child would test the tree it came from.
    """
    assert "rlhf_lora" not in sys.modules
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
    for name in HEAVY:
        __import__(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_tree(Path(folder))
        found = {"none": outcome(tree, sorted({mutation.test for mutation in mutations}))}
        print(f"{found['none']}  none", flush=True)
        for mutation in mutations:
            inside = mutation.file if mutation.file.startswith("rlhf_lora") else f"rlhf_lora/{mutation.file}"
            whole = (tree / inside).read_text(encoding="utf-8")
            (tree / inside).write_text(mutation.applied(whole), encoding="utf-8")
            found[mutation.id] = outcome(tree, [mutation.test])
            (tree / inside).write_text(whole, encoding="utf-8")
            print(f"{found[mutation.id]}  {mutation.id}", flush=True)
    return found


if __name__ == "__main__":
    chosen = [m for m in MUTATIONS if not sys.argv[1:] or m.id.split()[0] in sys.argv[1:]]
    codes = run(chosen)
    wrong = [name for name, code in codes.items() if code != (PASSED if name == "none" else CAUGHT)]
    print(f"{len(chosen) - len([name for name in wrong if name != 'none'])} of {len(chosen)} caught")
    sys.exit(bool(wrong))
