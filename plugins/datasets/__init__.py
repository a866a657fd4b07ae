"""Built-in datasets."""

from rlhf_lora.plugins.datasets import jsonl as jsonl
from rlhf_lora.plugins.datasets import orders as orders
