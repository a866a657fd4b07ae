"""Instructions that a program can check, one function per id, in the words of IFEval and IFBench (`docs/instructions.md`)."""

from . import counts, custom, formats, layout, ratios, sentences, startend, vocabulary, words  # noqa: F401
