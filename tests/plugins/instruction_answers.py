"""For every instruction id: settings, an answer that keeps it, and answers that break it; made by hand."""

from __future__ import annotations

import string
from typing import Any

LESS, LEAST = "less than", "at least"
ALPHABET = " ".join(f"{letter}lways the tale goes on." for letter in string.ascii_uppercase)
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(f"{i},Tools,Acme,9.50,{i}" for i in range(1, 14))
FIVE = {"keyword1": "sun", "keyword2": "moon", "keyword3": "sea", "keyword4": "rock", "keyword5": "tree"}
FIVE_KEPT = "sun " + "moon " * 2 + "sea " * 3 + "rock " * 5 + "tree " * 7
SPAN = {"prompt_to_repeat": "tell me why the sky is blue", "n_start": 2, "n_end": 4}
PALINDROMES = "level radar civic kayak madam refer rotor tenet sagas solos"
TEMPLATE = "My Answer: it hurts. My Conclusion: less of it. Future Outlook: mild."

ANSWERS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "keywords:existence": ({"keywords": ["tea", "cup"]}, "A Cup of tea.", ["A cup of coffee.", "Teams in cups."]),
    "keywords:frequency": ({"keyword": "tea", "frequency": 2, "relation": LEAST}, "Tea or tea?", ["Tea. Team."]),
    "keywords:forbidden_words": ({"forbidden_words": ["tea"]}, "A team sang.", ["No TEA here."]),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": LEAST}, "Zigzag buzz", ["zebra"],
    ),
    "count:keywords_multiple": (FIVE, FIVE_KEPT, [FIVE_KEPT + "sun", FIVE_KEPT.replace("tree", "bush", 1), "sun"]),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": LESS}, "ONE loud word", ["TWO LOUD words"],
    ),
    "change_case:english_capital": ({}, "ALL IS LOUD, 24 HOURS.", ["ALL IS lOUD"]),
    "change_case:english_lowercase": ({}, "all is quiet, 24 hours.", ["All is quiet."]),
    "punctuation:no_comma": ({}, "One and two.", ["One, two."]),
    "startend:end_checker": ({"end_phrase": "Is that all?"}, "Here it is. Is that all?", ["Is that all? Yes."]),
    "startend:quotation": ({}, '"All of it."', ['"Some" of it.', "None."]),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Why is it so?"}, "Why is it so?\n\nBecause.", ["Because. Why is it so?", "Why is it so?"],
    ),
    "repeat:repeat_span": (SPAN, "why the sky", ["me why the", "why the sky is", "The span: why the sky"]),
    "combination:two_responses": ({}, "One.\n******\nTwo.", ["One.\n******\nOne.", "One. Two.", "One.\n******\n"]),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "Dear [name] of [town]", ["Dear [name]", "[]"]),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP.S. Write soon.", ["Bye.", "Bye.\nP.S."]),
    "words:words_position": (
        {"keyword": "despite"}, "And despite all we go on despite rain.",
        ["Despite all we go on despite rain.", "Despite."],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": LESS}, "Dr. Lee came. She sang.", ["One. Two! Three?"],
    ),
    "length_constraints:number_words": (
        {"num_words": 4, "relation": LEAST}, "It isn't well-known here",
        ["Not well-known"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2}, "One.\n***\nTwo.", ["One.\n\nTwo.", "One.\n***\n", "One.\n***\nTwo.\n***\nThree."],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "First this.\n\nThen that.",
        ["Then that.\n\nFirst this.", "First this.\n\nThen that.\n\nThen more."],
    ),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", ["* one", "* one\n* two\n* three"]),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2}, "A *first* and a **second one**.", ["A *first*.", "2 * 3 * 4", "** **"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1\nOne.\nSECTION 2\nTwo.", ["SECTION 1\nOne."],
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": [1]}\n```', ['{"a": 1', "7", 'So: {"a": 1}', "[" * 100_000]),
    "detectable_format:title": ({}, "<<On tea>>\nIt is good.", ["<On tea>", "<<>>", "<<  >>"]),
    "detectable_format:constrained_response": (
        {}, "My answer is maybe.",
        ["Maybe.", "My answer is yes. My answer is no."],
    ),
    "format:output_template": (
        {}, TEMPLATE,
        [TEMPLATE.replace("My Conclusion:", ""), "Well. " + TEMPLATE, "My Answer: My Conclusion: b Future Outlook: c",
         "My Answer: [answer] My Conclusion: [conclusion] Future Outlook: [outlook]"],
    ),
    "format:thesis": (
        {}, "# One\n<i>Tea is good.</i> For it warms.\n# Two\n<em>It is hot.</em> So wait.",
        ["# One\n<i>Tea is good.</i>\n# Two\nIt is hot.", "*Tea is good.* For it warms.", "<i></i> Tea."],
    ),
    "format:sub-bullets": (
        {}, "So:\n* tea\n  - hot\n* milk\n  - cold\n  - fresh",
        ["* tea\n* milk\n  - cold", "- tea", "- a\n* b\n- c"],
    ),
    "format:line_indent": ({}, "one\n two\n   three", ["one\n two\n two", "one", "one\ntwo"]),
    "format:list": (
        {"sep": "!?!?"}, "Some:\n!?!? tea\n!?!? milk",
        ["- tea\n- milk", "!?!? tea", "!?!? tea\n!?!? milk\n* salt"],
    ),
    "format:parentheses": ({}, "a (b [c {d (e [f])}])", ["a (b [c {d (e)}])", "a (b [c {d (e [f)])}])", "((((("]),
    "format:quotes": (
        {}, "\"He said 'she wrote \"it's late\" to me' again.\"",
        ["\"He said 'no' again.\"", "“He said “she wrote “late” to me” again.”", "\"He said 'she wrote \"late"],
    ),
    "format:quote_unquote": (
        {}, 'They say "time flies", which means that it is short.',
        ["Time flies.", 'It is "so" and "thus".', 'So "a" "b" c'],
    ),
    "format:emoji": (
        {}, "It is late. 🌙 We sleep 😴!\nGood night 👋🏽",
        ["It is late. We sleep. 😴", "It is late.", "😴 It is late.", "Late 🌙. Bye."],
    ),
    "format:newline": ({}, "one\ntwo\n\nthree", ["one two\nthree"]),
    "format:no_whitespace": ({}, "all-in-one\n", ["all in one", "all\nin"]),
    "format:title_case": (
        {}, "The Rise of a Small Town\nAnd 3 More",
        ["The rise of a Town", "the Rise of a Town", "42"],
    ),
    "format:no_bullets_bullets": (
        {}, "It is so. It was so.\n* tea\n* milk",
        ["It is so.\n* tea\n* milk", "It is so. It was so.\n* tea", "* a\n* b\nSo. It is."],
    ),
    "format:options": ({"options": "yes/no/maybe"}, "Maybe.", ["yes/no", "Yes, of course.", "perhaps"]),
    "count:word_count_range": (
        {"min_words": 3, "max_words": 4}, "one two three",
        ["one two", "one two three four five"],
    ),
    "count:unique_word_count": ({"N": 3}, "one two three two", ["one two One two"]),
    "count:numbers": ({"N": 2}, "The 3rd of 1,000.5 and 7.", ["Only 7.", "1 2 3", "two numbers"]),
    "count:pronouns": ({"N": 3}, "She gave it to me.", ["She gave bread to Tom."]),
    "count:conjunctions": ({"small_n": 2}, "Tea and milk, but no salt.", ["Tea and milk and salt."]),
    "count:punctuation": (
        {}, "Well, this: good; really! Sure? What?! Yes.",
        ["Well, this: good; really. What?!", "Well, this: good; really! Sure?"],
    ),
    "count:words_japanese": ({"N": 3}, "one two 三 four five ろく", ["one two three four five ろく", "ひとつ two"]),
    "words:vowel": ({}, "A red ant hid.", ["An old cup is red.", "Hmm."]),
    "words:consonants": ({}, "Strong myths 42 stand.", ["Strong tea stands.", "42"]),
    "words:no_consecutive": ({}, "Red birds sing.", ["Big birds sing.", "42"]),
    "words:palindrome": ({}, PALINDROMES, ["level " * 10, PALINDROMES.replace("level", "noon")]),
    "words:repeats": ({"small_n": 2}, "tea Tea milk", ["tea Tea tea"]),
    "words:prime_lengths": ({}, "It was at sea, young one.", ["It was done.", "a"]),
    "words:alphabet": ({}, "Xenia yells. Zoe asks Ben.", ["Ann asks Ben.", "Ann called.", "Ann"]),
    "words:last_first": ({}, "We drink tea. Tea is hot! Hot is good.", ["We drink tea. It is hot.", "We drink tea."]),
    "words:paragraph_last_first": ({}, "Tea is tea.\n\nAll or all.", ["Tea is tea.\nAll or none.", "Tea."]),
    "words:keywords_specific_position": (
        {"keyword": "giggle", "n": 2, "m": 3}, "We sat. They all giggle now.",
        ["They all giggle. We sat.", "We sat. All giggle."],
    ),
    "sentence:keyword": (
        {"word": "eat", "N": 2}, "We sat. Then we eat.",
        ["We eat. Then we sat.", "We sat. We heat it.", "We eat."],
    ),
    "sentence:increment": (
        {"small_n": 1}, "We sat. Then we ate.",
        ["We sat. Then we all ate.", "We sat.", "We all sat. We ate."],
    ),
    "sentence:alliteration_increment": (
        {}, "We ate. Big bears came. Six silly seals sang.",
        ["Big bears came. We ate.", "Big bears came. Two tall men.", "Big bears."],
    ),
    "ratio:sentence_words": (
        {}, "We sat. She ate. He sang.".replace("We", "All"),
        ["We sat. She ate. He sang.", "All sat. She sat. He sang.", "All sat."],
    ),
    "ratio:stop_words": (
        {"percentage": 25.0}, "Green tea tastes good and warms cold hands.",
        ["It is the tea of the house.", "42?!".replace("42", "the")],
    ),
    "ratio:overlap": (
        {"percentage": 40.0, "reference_text": "the sky is blue"}, "the sky is blue and very high",
        ["the sky is blue", "a wholly other text", "two words"],
    ),
    "ratio:sentence_type": ({}, "It is so. It was so. Is it?", ["It is so. Is it?", "It is so. It was so."]),
    "ratio:sentence_balance": ({}, "It is so. Is it? It is!", ["It is so. Is it?", "It is so. It was. Is it? It is!"]),
    "custom:csv_special_character": (
        {}, PRODUCTS + '\n14,Toys,"A&B, Inc.",3,4',
        [PRODUCTS + "\n14,Toys,A&B,3,4", PRODUCTS + '\n14,Toys,"Acme",3,4', PRODUCTS, PRODUCTS + '\n14,"Toys & more",3,4'],
    ),
    "custom:date_format_list": (
        {}, "1796-04-12, 1796-05-10",
        ["April 12, 1796", "1796-13-12", "1796-04-12 and 1796-05-10"],
    ),
    "custom:multiples": ({}, "14, 21, 28, 35, 42, 49", ["7, 14, 21, 28, 35, 42, 49", "14 21 28"]),
    "custom:sentence_alphabet": ({}, ALPHABET, [ALPHABET.replace("Always", "Once", 1), "A cat sat."]),
}  # fmt: skip
