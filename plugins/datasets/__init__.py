"""Built-in datasets."""

from . import helpdesk, helpdesk_rules, hub, jsonl, orders  # noqa: F401
