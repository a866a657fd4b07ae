"""Takes five seconds to import."""

import time

from rlhf_lora import reward

time.sleep(5)


@reward("slow_import")
def slow_import(samples):
    return [float(len(sample.text)) for sample in samples]
