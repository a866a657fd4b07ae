"""Does not parse."""

from rlhf_lora import reward


@reward("syntax_error")
def syntax_error(samples)
    return [0.0 for _ in samples]
