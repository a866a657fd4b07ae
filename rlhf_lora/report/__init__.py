"""What a run shows people: `report.html`, one file without network or scripts, and the model card."""

from rlhf_lora.report.card import write_model_card
from rlhf_lora.report.page import write_report

__all__ = ["write_model_card", "write_report"]
