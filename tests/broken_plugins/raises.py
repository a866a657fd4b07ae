"""Raises at one sample."""

from rlhf_lora import reward


@reward("raises")
def raises(samples):
    return [1 / len(sample.text.replace("Yes.", "")) for sample in samples]
