"""Built-in rewards."""

from . import helpdesk_gold, helpdesk_rules_gold, learned, length, orders_gold, random  # noqa: F401
