"""Is ended by a signal."""

import os

from rlhf_lora import reward


@reward("killed")
def killed(samples):
    os.kill(os.getpid(), 9)
