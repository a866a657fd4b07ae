"""Supervised fine-tuning: imitate demonstrations. First box of InstructGPT's figure; `sft_trainer` does it."""

from rlhf_lora.sft_trainer import NO_LOSS, Collator, Trainer, fit, tokenised

__all__ = ["NO_LOSS", "Collator", "Trainer", "fit", "tokenised"]
