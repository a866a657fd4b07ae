"""Ends the process politely."""

import sys

from rlhf_lora import reward


@reward("sys_exit")
def sys_exit(samples):
    sys.exit(3)
