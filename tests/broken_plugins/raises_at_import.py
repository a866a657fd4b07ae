"""Reads a file that is not there."""

from rlhf_lora import reward

WORDS = open("/nowhere/words.txt").read().split()  # noqa: SIM115


@reward("raises_at_import")
def raises_at_import(samples):
    return [float(len(WORDS)) for _ in samples]
