"""Has no score."""

from rlhf_lora import reward


@reward("no_method")
class NoMethod:
    """Computes nothing."""

    target: int = 5
