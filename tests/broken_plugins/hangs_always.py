"""Never answers."""

from rlhf_lora import reward


@reward("hangs_always")
def hangs_always(samples):
    while True:
        pass
