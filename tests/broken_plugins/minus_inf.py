"""The logarithm of nothing."""

import math

from rlhf_lora import reward


@reward("minus_inf")
def minus_inf(samples):
    return [math.log(hits) if (hits := sample.text.count("o")) else -math.inf for sample in samples]
