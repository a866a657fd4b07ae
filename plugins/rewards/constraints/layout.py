"""The layout of an answer: paragraphs, sections, bullets, highlights, a title, JSON, a template."""

from __future__ import annotations

import re

from rlhf_lora.plain import json_value

from . import pieces
from .registry import NotUnderstood, compared, constraint


@constraint("length_constraints:number_sentences")
def number_of_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return compared(len(pieces.sentences(text)), relation, num_sentences)


@constraint("length_constraints:number_words")
def number_of_words(text: str, *, num_words: int, relation: str) -> bool:
    return compared(len(pieces.words(text)), relation, num_words)


@constraint("length_constraints:number_paragraphs")
def number_of_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many, with `***` between them and none of them empty."""
    parts = re.split(r"^[ \t]*\*\*\*[ \t]*$", text, flags=re.MULTILINE)
    return len(parts) == num_paragraphs and all(part.strip() for part in parts)


@constraint("length_constraints:nth_paragraph_first_word")
def first_word_of_a_paragraph(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs with blank lines between them; the n-th, counted from 1, begins with the word."""
    if not 1 <= nth_paragraph <= num_paragraphs:
        raise NotUnderstood(f"paragraph {nth_paragraph} of {num_paragraphs}")
    parts = pieces.paragraphs(text)
    if len(parts) != num_paragraphs:
        return False
    return pieces.lowered(parts[nth_paragraph - 1])[:1] == [first_word.lower()]


@constraint("detectable_format:number_bullet_lists")
def number_of_bullets(text: str, *, num_bullets: int) -> bool:
    """Exactly so many bullet points, marked `*` or `-`."""
    return len(pieces.bullets(text, "*-")) == num_bullets


@constraint("detectable_format:number_highlighted_sections")
def highlights(text: str, *, num_highlights: int) -> bool:
    """At least so many pieces in `*asterisks*`, single or double, none of them empty."""
    found = re.findall(r"(?<!\*)(\*{1,2})(?![\s*])([^*\n]*[^*\s])\1(?!\*)", text)
    return len(found) >= num_highlights


@constraint("detectable_format:multiple_sections")
def sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many lines that begin with the splitter and a number: `SECTION 1`."""
    mark = re.escape(section_spliter.strip())
    return len(re.findall(rf"^[ \t#*]*{mark}[ \t]+\d+", text, flags=re.MULTILINE)) >= num_sections


@constraint("detectable_format:json_format")
def is_json(text: str) -> bool:
    """An object or a list, alone or inside one fenced block."""
    fenced = re.fullmatch(r"\s*```(?:json)?[ \t]*\n(.*)\n```\s*", text, flags=re.DOTALL | re.IGNORECASE)
    try:
        found = json_value(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict | list)


@constraint("detectable_format:title")
def has_a_title(text: str) -> bool:
    """`<<a title>>`, with a word in it."""
    return any(pieces.words(title) for title in re.findall(r"<<([^\n<>]+)>>", text))


@constraint("detectable_format:constrained_response")
def my_answer_is(text: str) -> bool:
    """One of IFEval's three sentences, somewhere in the answer."""
    return len(set(re.findall(r"My answer is (?:yes|no|maybe)\.", text))) == 1


@constraint("format:output_template")
def follows_the_template(text: str) -> bool:
    """`My Answer: … My Conclusion: … Future Outlook: …`, in that order, nothing left empty or in brackets."""
    head, _, rest = text.partition("My Answer:")
    answer, _, rest = rest.partition("My Conclusion:")
    conclusion, _, outlook = rest.partition("Future Outlook:")
    unfilled = {"[answer]", "[conclusion]", "[outlook]"}
    parts = (answer, conclusion, outlook)
    return not head.strip() and all(pieces.words(part) and part.strip() not in unfilled for part in parts)


@constraint("format:thesis")
def sections_begin_in_italics(text: str) -> bool:
    """Every section begins with `<i>…</i>` or `<em>…</em>`.

    Sections lie between headings (`# …`, `<h2>…</h2>`, `Section 1`) when there are any, else between blank lines.
    """
    heading = r"^[ \t]*(?:#{1,6}\s.*|<h[1-6][^>\n]*>.*</h[1-6]>|\**section[ \t]+\w+.*)[ \t]*$"
    parts = re.split(heading, text, flags=re.MULTILINE | re.IGNORECASE)
    bodies = [part.strip() for part in parts[1:]] if len(parts) > 1 else pieces.paragraphs(text)
    begins = re.compile(r"(?:<p>\s*)?<(i|em)>(?=[^<\w]*+\w)[^<]*+</\1>", flags=re.IGNORECASE)
    return bool(bodies) and all(begins.match(body) for body in bodies)
