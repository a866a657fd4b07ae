"""Built-in datasets."""

from . import hub, jsonl, orders  # noqa: F401
