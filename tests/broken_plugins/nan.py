"""Not a number for an answer without a full stop."""

from rlhf_lora import reward


@reward("nan")
def nan(samples):
    return [float("nan") if "." not in sample.text else 1.0 for sample in samples]
