"""Never answers for one sample."""

import time

from rlhf_lora import reward


@reward("hangs")
def hangs(samples):
    while any("JSON" in sample.prompt for sample in samples):
        time.sleep(0.01)
    return [float(len(sample.text)) for sample in samples]
