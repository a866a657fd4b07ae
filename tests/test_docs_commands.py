"""Commands of pages that have no test of their own: `train` and `plan` are planned, the settings and flags of others exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny import few, jsonl

from rlhf_lora import cli
from rlhf_lora.config import compose

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = "ai_labels chat constitutional_ai judge_base judge_evaluation judge_texts labels plugins rewards"
FEW = ("dataset.demonstrations=80", "dataset.pairs=120", "dataset.prompts=400")
OF = {"NAME": "scripted", "RUN": "runs/mine", "FILE": "pairs.jsonl", "MODEL": "my-judge"}
"""What stands for what in the reader's place."""
OWN = {
    "mine.py": "from rlhf_lora import Verdict, judge\n@judge('mine')\nclass Mine:\n"
    "    def compare(self, prompt, a, b):\n        return Verdict('A')\n",
    "my_reward.py": "from rlhf_lora import reward\n@reward('brevity')\n"
    "def brevity(samples, *, target: int = 5):\n    return [0.0]\n",
}


def commands(page: str) -> list[str]:
    """Lines of shell blocks, and lines set in by four spaces, that begin with the program."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    return [line.strip() for line in [*blocks.splitlines(), *re.findall(r"^    rlhf-lora .*", text, re.M)]
            if line.startswith(("rlhf-lora ", "    rlhf-lora "))]  # fmt: skip


def words_of(command: str) -> list[str]:
    """Without comment, shell redirections and what a page leaves open (`judge.setting=…`)."""
    words = shlex.split(re.split(r"\s[<>]\s", command)[0], comments=True)[1:]
    words = [word for word in words if "…" not in word]
    return [re.sub(rf"(?<=[=\[])({'|'.join(OF)})\b|^({'|'.join(OF)})$", lambda m: OF[m[0]], word) for word in words]


ALL = [(page, command) for page in PAGES.split() for command in commands(page)]


def test_each_page_has_commands():
    assert {page for page, _ in ALL} == set(PAGES.split())
    assert len(ALL) > 20


@pytest.mark.parametrize(("page", "command"), few(ALL, 6))
def test_a_command_of_a_page_is_one_that_is_there(page, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    for name, text in OWN.items():
        Path(name).write_text(text)
    Path("rubric.md").write_text("Better is what is short.")
    rows = [{"prompt": f"bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(400)]
    for name in ("pairs.jsonl", "answers.jsonl"):
        jsonl(Path(name), rows)
    labelled = [
        {"kind": "comparison", "prompt": f"bring {i}", "answers": ["tea", "no"], "label": "A"} for i in range(400)
    ]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"format": "labels/1"}, *labelled]))
    verb, *words = words_of(command)
    assert verb in cli.VERBS
    if verb == "plugins" and words[0] in ("new", "check"):
        assert cli.run(["plugins", words[0], *words[1:], *(["--to", "new"] if words[0] == "new" else [])]) == 0
        return
    if verb in ("train", "plan"):
        own = "dataset=jsonl" in words or "dataset=labels" in words
        assert cli.run(["plan", *words, *([] if own else FEW)]) == 0, capsys.readouterr().err
        return
    flags = [word for word in words if word.startswith("-")]
    assert set(flags) <= {*cli.flags_of(verb), "-n"}
    compose(*[word for word in words if re.match(r"[\w.@]+=", word)])
