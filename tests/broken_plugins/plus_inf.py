"""Infinitely good."""

from rlhf_lora import reward


@reward("plus_inf")
def plus_inf(samples):
    return [float("inf") if "egg" in sample.prompt else 1.0 for sample in samples]
