"""Rules on structured answers: JSON, and JSON that follows a schema."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.plain import json_value
from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

from . import schema_check, wording
from .rule import CannotJudge, Kept, Rule, rule

FENCED = re.compile(r"```(?:json)?[ \t]*+\n(.*?)```", re.DOTALL | re.IGNORECASE)


@rule("json_schema")
@reward("json_schema")
class JsonSchema(Rule):
    """The answer is JSON, and follows a JSON Schema when one is given. NaN and Infinity are no JSON.

    A schema needs the package jsonschema: `pip install 'rlhf-lora[rules]'`.

    Attributes:
        schema: the schema itself. Nothing is fetched: a `$ref` points into it (`#/…`).
        schema_file: a file that has it.
        fenced: the first ```json block is read, with whatever stands around it; false = the whole answer is JSON.
        parsed: value of an answer that is JSON but breaks the schema, in [0, 1].
    """

    schema: dict[str, Any] = field(default_factory=dict)
    schema_file: str | None = None
    fenced: bool = True
    parsed: float = 0.0

    def __post_init__(self) -> None:
        if self.schema and self.schema_file:
            raise ValueError("it takes a schema or a schema_file, not both")
        if not 0 <= self.parsed <= 1:
            raise ValueError(f"parsed is a value from 0 to 1, got {self.parsed}")
        schema = json.dumps(self._given(), sort_keys=True)
        object.__setattr__(self, "_schema", schema)  # text: the validator itself cannot be pickled
        _validator(schema)

    def _given(self) -> Any:
        if self.schema_file is None:
            return self.schema
        try:
            return json.loads(Path(self.schema_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"schema_file={self.schema_file} cannot be read: {error}") from None

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        block = FENCED.search(sample.text) if self.fenced else None
        try:
            value = json_value(block[1] if block else sample.text)
        except (ValueError, RecursionError) as error:
            return Kept(0.0, f"no JSON: {error}")
        validator = _validator(vars(self)["_schema"])
        try:
            with schema_check.time_limit(wording.PATTERN_SECONDS):
                fault = None if validator is None else next(iter(validator.iter_errors(value)), None)
        except RecursionError:
            raise CannotJudge("the answer is nested too deep to be held against the schema", "error") from None
        except ArithmeticError as error:  # a whole number that no float holds, asked for multiples of one
            raise CannotJudge(f"the answer has a number too large for the schema: {error}", "error") from None
        except TimeoutError:
            raise CannotJudge(
                f"the schema's patterns were not done after {wording.PATTERN_SECONDS:g} s", "error"
            ) from None
        if fault is None:
            return Kept(1.0)
        return Kept(self.parsed, f"breaks the schema at {fault.json_path}: {fault.message[:200]}")


@functools.lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    """What checks values against the schema in `text`; None where that is empty.

    Raises:
        ConfigError: jsonschema is not installed. ValueError: this is no schema, or it points elsewhere.
    """
    schema = json.loads(text)
    if schema == {}:
        return None
    if not isinstance(schema, dict):
        raise ValueError("a schema is a mapping")
    try:
        import jsonschema  # noqa: F401
        import referencing  # noqa: F401
    except ImportError:
        raise ConfigError(
            "the rule json_schema needs the package jsonschema for a schema",
            fix="pip install 'rlhf-lora[rules]', or leave schema out",
        ) from None
    return schema_check.validator(schema)
