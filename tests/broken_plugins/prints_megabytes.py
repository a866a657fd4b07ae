"""Prints what it reads, many times."""

from rlhf_lora import reward


@reward("prints_megabytes")
def prints_megabytes(samples):
    for sample in samples:
        print(sample.text * 10_000)
    return [float(len(sample.text)) for sample in samples]
