"""Scores that are text."""

from rlhf_lora import reward


@reward("strings")
def strings(samples):
    return [str(len(sample.text)) for sample in samples]
