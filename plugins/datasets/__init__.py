"""Built-in datasets."""

from . import jsonl, orders  # noqa: F401
