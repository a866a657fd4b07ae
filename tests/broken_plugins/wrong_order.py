"""Sorts its scores."""

from rlhf_lora import reward


@reward("wrong_order")
def wrong_order(samples):
    return sorted(float(len(sample.text)) for sample in samples)
