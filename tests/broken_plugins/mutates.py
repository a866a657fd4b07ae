"""Lowers the text that it was lent."""

from rlhf_lora import reward


@reward("mutates")
def mutates(samples):
    for sample in samples:
        sample.text = sample.text.lower()
    return [float(len(sample.text)) for sample in samples]
