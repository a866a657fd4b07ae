"""Rules on structured answers: JSON, and JSON that follows a schema."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

from .rule import CannotJudge, Kept, Rule, rule

FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)


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
            value = json.loads(block[1] if block else sample.text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return Kept(0.0, f"no JSON: {error}")
        validator = _validator(vars(self)["_schema"])
        try:
            fault = None if validator is None else next(iter(validator.iter_errors(value)), None)
        except RecursionError:
            raise CannotJudge("the answer is nested too deep to be held against the schema", "error") from None
        if fault is None:
            return Kept(1.0)
        return Kept(self.parsed, f"breaks the schema at {fault.json_path}: {fault.message[:200]}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


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
        import jsonschema
        import referencing
    except ImportError:
        raise ConfigError(
            "the rule json_schema needs the package jsonschema for a schema",
            fix="pip install 'rlhf-lora[rules]', or leave schema out",
        ) from None
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"this is no JSON Schema, at {error.json_path}: {error.message}") from None
    _check_references(schema)
    return kind(schema, registry=referencing.Registry())  # an empty registry fetches nothing


def _check_references(schema: Mapping[str, Any]) -> None:
    """Every `$ref` points into the schema, to something that is there: else the first answer would end the run."""
    for ref in _references(schema):
        if not ref.startswith("#"):
            raise ValueError(f"the schema points outside of itself, and nothing is fetched: {ref}")
        at: Any = schema
        for step in ref.removeprefix("#").split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            at = at.get(name) if isinstance(at, dict) else at[int(name)] if isinstance(at, list) else None
            if at is None:
                raise ValueError(f"the schema points to what it does not have: {ref}")


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
