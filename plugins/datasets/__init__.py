"""Built-in datasets."""

from . import helpdesk, helpdesk_rules, hub, jsonl, labels, orders  # noqa: F401
