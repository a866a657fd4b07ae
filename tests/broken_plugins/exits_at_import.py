"""Ends the process when it is imported."""

import os

from rlhf_lora import reward

os._exit(5)


@reward("exits_at_import")
def exits_at_import(samples):
    return [0.0 for _ in samples]
