"""A verdict in words."""

from rlhf_lora import reward


@reward("one_string")
def one_string(samples):
    return "good"
