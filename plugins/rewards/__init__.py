"""Built-in rewards: importing them enters them in the table."""

from . import (  # noqa: F401
    ai_feedback,
    constraints,
    helpdesk_gold,
    helpdesk_rules_gold,
    instructions,
    learned,
    length,
    math_answer,
    mix,
    orders_gold,
    random,
    rule_model,
    rules,
    sequence_classifier,
    unit_tests,
)
