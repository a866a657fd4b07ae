"""Ends the process at once."""

import os

from rlhf_lora import reward


@reward("os_exit")
def os_exit(samples):
    os._exit(4)
