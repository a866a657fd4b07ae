"""Chat templates rendered as Transformers renders them, without Transformers.

A template is a program that came with a model: it runs in Jinja's sandbox, cannot change what it is given, and finds the
few functions that templates call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from typing import Any


@cache
def renderer(template: str) -> Callable[..., str]:
    """What renders a template from its variables by name.

    Raises:
        jinja2.TemplateError: it cannot be read, or (when rendering) it refuses what it is given.
    """
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks the assistant's words for training; the text is the same."""

        tags = {"generation"}  # noqa: RUF012 (so Jinja has it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    made.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own would escape what HTML escapes
    made.globals |= {"raise_exception": refuse, "strftime_now": lambda format: datetime.now().strftime(format)}
    render: Callable[..., str] = made.from_string(template).render
    return render
