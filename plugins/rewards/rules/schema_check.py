"""A JSON Schema made ready to check answers: what would fail or hang at an answer is refused when it is built.

Patterns are matched by the `regex` package, within a time limit that all patterns of one answer share: `re` keeps every
other thread from running while it matches, so no deadline around it would hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import regex

_UNTIL: ContextVar[float] = ContextVar("until")
"""When the patterns of the answer at hand must be done, on the clock `time.monotonic`."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Patterns inside of this have so many seconds together; then they raise TimeoutError."""
    token = _UNTIL.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def _matches(pattern: str, text: str) -> bool:
    left = _UNTIL.get() - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return regex.search(pattern, text, timeout=left) is not None


def validator(schema: Mapping[str, Any]) -> Any:
    """What checks values against `schema`, a validator of the package jsonschema. Used within `time_limit`.

    Raises:
        ValueError: this is no schema, it points outside of itself or to nothing, or a pattern cannot be read.
    """
    import jsonschema
    import referencing

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"this is no JSON Schema, at {error.json_path}: {error.message}") from None
    _check(schema, kind)
    timed = jsonschema.validators.extend(
        kind,
        {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties(kind.VALIDATORS["additionalProperties"]),
        },
    )
    # an empty registry fetches nothing; jsonschema takes the class that `$schema` names for every part that has one
    return timed({key: value for key, value in schema.items() if key != "$schema"}, registry=referencing.Registry())


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(value, str) and not _matches(pattern, value):
        yield jsonschema.ValidationError(f"{value[:80]!r} does not match {pattern!r}")


def _pattern_properties(checks: Any, patterns: Mapping[str, Any], value: Any, _: Any) -> Iterator[Any]:
    for pattern, schema in patterns.items() if isinstance(value, dict) else ():
        for name, item in value.items():
            if _matches(pattern, name):
                yield from checks.descend(item, schema, path=name, schema_path=pattern)


def _additional_properties(original: Any) -> Any:
    """jsonschema's own check, given what is left when patterns have been looked at."""

    def check(checks: Any, given: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        patterns = schema.get("patternProperties", {})
        if patterns and isinstance(value, dict):
            value = {n: item for n, item in value.items() if not any(_matches(pattern, n) for pattern in patterns)}
            schema = {key: part for key, part in schema.items() if key != "patternProperties"}
        yield from original(checks, given, value, schema) or ()

    return check


def _check(schema: Mapping[str, Any], kind: Any) -> None:
    """Every part of the schema, and what its references point to.

    Raises:
        ValueError: what is wrong with one of them.
    """
    import referencing
    import referencing.jsonschema

    specification = referencing.jsonschema.specification_with(kind.META_SCHEMA.get("$schema", ""))
    root = specification.create_resource(schema)
    waiting = [(root, referencing.Registry().resolver_with_root(root))]
    seen: set[int] = set()
    keys: set[str] = set()
    while waiting:
        part, resolver = waiting.pop()
        if id(part.contents) in seen or not isinstance(part.contents, dict):
            continue
        seen.add(id(part.contents))
        if "$schema" in part.contents and part is not root:
            raise ValueError("a part of the schema has a $schema of its own")
        keys.update(part.contents)
        _check_patterns(part.contents)
        for ref in (part.contents.get(key) for key in ("$ref", "$dynamicRef", "$recursiveRef")):
            if isinstance(ref, str):
                target = _target(ref, resolver, kind)
                waiting.append((specification.create_resource(target.contents), target.resolver))
        for inner in specification.subresources_of(part.contents):
            resource = specification.create_resource(inner)
            waiting.append((resource, resolver.in_subresource(resource)))
    if keys.issuperset({"unevaluatedProperties", "patternProperties"}):
        raise ValueError(
            "unevaluatedProperties and patternProperties: patterns have no time limit there; use additionalProperties"
        )


def _target(ref: str, resolver: Any, kind: Any) -> Any:
    import jsonschema
    import referencing.exceptions

    try:
        target = resolver.lookup(ref)
        if not isinstance(target.contents, bool):
            kind.check_schema(target.contents)
    except (referencing.exceptions.Unresolvable, LookupError, TypeError, ValueError, AttributeError):
        if ref.startswith("#"):
            raise ValueError(f"the schema points to what it does not have: {ref}") from None
        raise ValueError(f"the schema points outside of itself, and nothing is fetched: {ref}") from None
    except jsonschema.SchemaError:
        raise ValueError(f"the schema points to what is no schema: {ref}") from None
    return target


def _check_patterns(part: Mapping[str, Any]) -> None:
    for pattern in [*part.get("patternProperties", {}), *([part["pattern"]] if "pattern" in part else [])]:
        try:
            regex.compile(pattern)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"the schema's pattern /{pattern}/ cannot be read: {error}") from None
