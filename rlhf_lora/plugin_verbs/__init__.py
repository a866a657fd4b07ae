"""`rlhf-lora plugins …`: what there is, a new one to begin with, a check without a model, and a look at its scores."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lora.errors import ConfigError, did_you_mean

VERBS = ("new", "check", "try")
OPTIONS = {"new": ("--to",), "check": ("--data", "--deadline"), "try": ("--data", "--run", "--to", "-n"), "list": ()}
"""Options with a value, of each verb."""


def run(words: Sequence[str], flags: frozenset[str]) -> int:
    """Run `plugins WORDS`; returns the exit code.

    Raises:
        UserError: what was given is wrong.
    """
    verb, rest = (words[0], list(words[1:])) if words and words[0] in VERBS else ("list", list(words))
    options = {word.partition("=")[0]: word.partition("=")[2] for word in rest if word.startswith("-")}
    rest = [word for word in rest if not word.startswith("-")]
    for option in options:
        if option not in OPTIONS[verb]:
            known = ", ".join(OPTIONS[verb]) or "none"
            raise ConfigError(
                f"`plugins {verb}` has no option {option}" if verb != "list" else f"listing plugins has no option {option}",
                where=option, fix=f"its options: {known}{did_you_mean(option, OPTIONS[verb])}",
            )  # fmt: skip
    if verb == "new":
        from rlhf_lora.plugin_verbs.scaffold import new

        return new(rest, options.get("--to"))
    if verb == "check":
        from rlhf_lora.plugin_verbs.check import check

        return check(rest, options.get("--data"), options.get("--deadline"), "--json" in flags)
    if verb == "try":
        from rlhf_lora.plugin_verbs.tryout import tryout

        return tryout(rest, options, "--json" in flags)
    from rlhf_lora.plugin_verbs.listing import listing

    return listing(rest, "--json" in flags)
