"""Stages that leave files: what is measured before and after training on revisions."""

from __future__ import annotations

from rlhf_lora.assembly import Assembly
from rlhf_lora.file_stages import FileStages
from rlhf_lora.run_folder import RunFolder


def test_prompts_that_are_too_long_for_the_run_are_not_measured_on(plan, tmp_path):
    """They would be longer than what the model holds, and end the run behind the training that they are to measure."""
    made = plan("revisions.rounds=1", "max_prompt_tokens=10", "rollout.max_new_tokens=2")
    files = FileStages(Assembly(made, RunFolder.create(tmp_path / "folder", {}, {})))
    every = made.splits.tuning_prompts
    asked, answers = files._answers_of(None, every)
    lengths = {prompt.text: len(prompt.text.split()) for prompt in every}
    assert 0 < len(asked) == len(answers) < len(every)
    assert max(lengths[prompt.text] for prompt in asked) < max(lengths.values())
    assert not files.parts.too_long
