"""One number for all."""

from rlhf_lora import reward


@reward("scalar")
def scalar(samples):
    return sum(len(sample.text) for sample in samples) / 10
