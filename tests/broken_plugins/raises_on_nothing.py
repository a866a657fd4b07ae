"""The largest of no samples."""

from rlhf_lora import reward


@reward("raises_on_nothing")
def raises_on_nothing(samples):
    longest = max(len(sample.text) for sample in samples)
    return [min(float(longest), len(sample.text)) for sample in samples]
