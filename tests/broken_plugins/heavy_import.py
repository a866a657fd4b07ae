"""Loads torch when it is imported."""

import torch

from rlhf_lora import reward


@reward("heavy_import")
def heavy_import(samples):
    return torch.tensor([float(len(sample.text)) for sample in samples]).tolist()
