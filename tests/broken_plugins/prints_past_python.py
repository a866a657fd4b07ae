"""Writes megabytes to the terminal without Python's print."""

import os

from rlhf_lora import reward


@reward("prints_past_python")
def prints_past_python(samples):
    os.write(1, b"noise " * 200_000)
    return [float(len(sample.text)) for sample in samples]
