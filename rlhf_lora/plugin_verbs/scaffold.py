"""`rlhf-lora plugins new KIND NAME`: a plugin that works, its test, and three rows to try it on."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rlhf_lora.errors import ConfigError
from rlhf_lora.plugin_verbs.listing import checked_kind

NEXT = {
    "reward": (
        "rlhf-lora plugins try plugins=[{file}] reward={name} --data {rows} -n 3",
        "rlhf-lora train plugins=[{file}] reward={name}",
    ),
    "judge": ("rlhf-lora evaluate RUN plugins=[{file}] judge={name}",),
    "dataset": (
        "rlhf-lora plan plugins=[{file}] dataset={name} dataset.path={rows} model=qwen3_0_6b",
        "rlhf-lora train plugins=[{file}] dataset={name} dataset.path={rows} model=qwen3_0_6b",
    ),
    "optimizer": ("rlhf-lora train plugins=[{file}] optimizer={name}",),
    "rollout": ("rlhf-lora train plugins=[{file}] rollout={name}",),
    "tracker": ("rlhf-lora train plugins=[{file}] tracker={name}",),
}
"""Commands that come after `check`."""
CHECK = {"dataset": "rlhf-lora plugins check {file} path={rows}"}
ROWS = """\
{"prompt": "What is the capital of France?", "chosen": "Paris.", "rejected": "France is a country in Europe with many cities."}
{"prompt": "Say hello.", "chosen": "Hello!", "rejected": "Well, where should I begin? There are so many ways to say it."}
{"prompt": "What is 2 + 3?", "chosen": "5", "rejected": "That is a good question, and I am glad that you asked it."}
"""


def new(words: Sequence[str], to: str | None) -> int:
    """Write the files and say what to do next.

    Raises:
        ConfigError: no kind and name, a name that is none, or a file that is there already.
    """
    if len(words) != 2:
        raise ConfigError(
            "new wants a kind and a name", where=" ".join(["rlhf-lora plugins new", *words]),
            fix="rlhf-lora plugins new reward brevity",
        )  # fmt: skip
    kind, name = checked_kind(words[0]), words[1]
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise ConfigError(
            f"'{name}' cannot name a plugin", where=f"plugins new {kind} {name}",
            fix="use letters, digits and underscores, such as short_answers",
        )  # fmt: skip
    folder = Path(to or ".")
    files = {folder / file: text for file, text in written(kind, name).items()}
    for file in files:
        if file.exists():
            raise ConfigError(
                f"{file} is there already", where=str(file), fix="take another name, or another folder: --to DIR"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    for file in files:
        print(f"wrote {file}")
    file, rows = folder / f"{name}.py", folder / f"{name}.jsonl"
    commands = (CHECK.get(kind, "rlhf-lora plugins check {file}"), *NEXT[kind])
    print("next:", *(f"  {command.format(file=file, rows=rows, name=name)}" for command in commands), sep="\n")
    print(f"  python -m pytest {folder / f'test_{name}.py'}")
    return 0


def written(kind: str, name: str) -> dict[str, str]:
    """File name → what stands in it."""
    template = resources.files("rlhf_lora.plugin_verbs").joinpath("templates", f"{kind}.py.txt").read_text("utf-8")
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Plugin"
    if class_name == name:
        class_name += "Plugin"
    files = {
        f"{name}.py": template.replace("CLASS_NAME", class_name).replace("PLUGIN_NAME", name),
        f"test_{name}.py": _test(kind, name, class_name),
    }
    return files | ({f"{name}.jsonl": ROWS} if kind in ("reward", "dataset") else {})


def _test(kind: str, name: str, class_name: str) -> str:
    """One line of pytest, and the imports for it."""
    thing = name if kind == "reward" else class_name
    head = rows = ""
    given = thing
    if kind == "dataset":  # a path must be given
        head, rows = "from pathlib import Path\n\n", f'\nROWS = Path(__file__).with_name("{name}.jsonl")\n'
        given = f"{thing}(path=str(ROWS))"
    return (
        f"{head}from {name} import {thing}\n\nfrom rlhf_lora.testing import check_{kind}\n{rows}\n\n"
        f"def test_{name}_keeps_its_promises():\n    check_{kind}({given})\n"
    )
