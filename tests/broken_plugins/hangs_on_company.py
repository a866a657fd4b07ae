"""Subtracts the mean of the batch."""

from rlhf_lora import reward


@reward("hangs_on_company")
def hangs_on_company(samples):
    lengths = [float(len(sample.text)) for sample in samples]
    return [length - sum(lengths) / max(1, len(lengths)) for length in lengths]
