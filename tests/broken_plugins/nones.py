"""No value for anything."""

from rlhf_lora import reward


@reward("nones")
def nones(samples):
    return [None for _ in samples]
