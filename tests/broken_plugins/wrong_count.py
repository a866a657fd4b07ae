"""One score too few."""

from rlhf_lora import reward


@reward("wrong_count")
def wrong_count(samples):
    return [float(len(sample.text)) for sample in samples][1:]
