"""Built-in datasets."""

from . import helpdesk, hub, jsonl, orders  # noqa: F401
