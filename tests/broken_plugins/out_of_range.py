"""Leaves the range that it declares."""

from rlhf_lora import reward


@reward("out_of_range")
class OutOfRange:
    """Claims to be a share."""

    score_range = (0.0, 1.0)

    def score(self, samples):
        return [len(sample.text) / 40 for sample in samples]
