"""Takes most of a second for an answer."""

import time

from rlhf_lora import reward


@reward("slow")
def slow(samples):
    time.sleep(0.6 * len(samples))
    return [float(len(sample.text)) for sample in samples]
