"""Forgot the return."""

from rlhf_lora import reward


@reward("none_always")
def none_always(samples):
    [float(len(sample.text)) for sample in samples]
