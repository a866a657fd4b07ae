"""Every line of `tests/mutations.py`, broken, is noticed by its test."""

from __future__ import annotations

import os
import subprocess
import sys

import draw_conformance
import mutations
import pytest


def test_each_mutation_stands_in_the_code_as_it_is_and_names_a_test():
    names = {test.name for test in draw_conformance.tests()}
    for mutation in mutations.MUTATIONS:
        assert mutation.applied((mutations.ROOT / mutation.file).read_text(encoding="utf-8")), mutation.id
        assert mutation.test.partition("::")[2] in names, mutation.id
    assert len({mutation.id for mutation in mutations.MUTATIONS}) == len(mutations.MUTATIONS) >= 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_mutation_is_caught():
    done = subprocess.run([sys.executable, mutations.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
