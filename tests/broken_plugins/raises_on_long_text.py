"""Gives up on long answers."""

from rlhf_lora import reward


@reward("raises_on_long_text")
def raises_on_long_text(samples):
    if any(len(sample.text) > 5000 for sample in samples):
        raise MemoryError("too long")
    return [float(len(sample.text)) for sample in samples]
