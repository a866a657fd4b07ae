"""How far the kit may be from another release's PPO: the bounds of `tests/agreement`, and the tables of docs/conformance.md."""

from __future__ import annotations

from typing import NamedTuple


class Agreement(NamedTuple):
    """One comparison; `at_most` is the largest absolute difference of any entry of any draw that its test lets pass."""

    ours: str
    theirs: str
    at_most: float
    test: str


AGREEMENTS: dict[str, Agreement] = {
    "mean": Agreement("`advantages.masked_mean`", "`masked_mean`", 1e-12, "test_masked_mean_agrees"),
    "whiten": Agreement("", "", 1e-12, ""),
    "shaped": Agreement("", "", 1e-12, ""),
    "gae": Agreement("", "", 1e-12, ""),
    "kl": Agreement("", "", 1e-12, ""),
    "older advantages": Agreement("", "", 1e-12, ""),
    "losses": Agreement("", "", 1e-12, ""),
    "optimizer": Agreement("", "", 1e-12, ""),
    "older losses": Agreement("", "", 1e-12, ""),
    "logprobs": Agreement("", "", 2e-5, ""),
    "entropy": Agreement("", "", 2e-5, ""),
    "shares": Agreement("", "", 1e-7, ""),
    "controller": Agreement("", "", 1e-12, ""),
}


def bound(name: str) -> float:
    return AGREEMENTS[name].at_most
