"""`rlhf-lora plugins new KIND NAME`: a plugin that works, its test, and three rows to try it on."""

from __future__ import annotations

import importlib.util
import keyword
import shlex
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError
from rlhf_lora.plugin_verbs.listing import checked_kind

NEXT = {
    "reward": (
        "rlhf-lora plugins try plugins=[{file}] reward={name} --data {rows} -n 3",
        "rlhf-lora train plugins=[{file}] reward={name}",
    ),
    "judge": (
        "rlhf-lora evaluate plugins=[{file}] judge={name} dataset=orders -n 20",
        "rlhf-lora train plugins=[{file}] reward=ai_feedback judge={name}",
    ),
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
        ConfigError: no kind and name, a name that is none or is taken, a file that is there already, or one that cannot be
            written.
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
    _refuse_taken(kind, name)
    folder = Path(to or ".")
    files = {folder / file: text for file, text in written(kind, name).items()}
    for file in files:
        if file.exists():
            raise ConfigError(
                f"{file} is there already", where=str(file), fix="take another name, or another folder: --to DIR"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the files cannot be written: {error.strerror or error}", where=str(error.filename or folder),
            fix="name a folder that you may write: --to DIR",
        ) from error  # fmt: skip
    for file in files:
        print(f"wrote {file}")
    commands = (CHECK.get(kind, "rlhf-lora plugins check {file}"), *NEXT[kind], "python -m pytest {test}")
    values = {"file": folder / f"{name}.py", "rows": folder / f"{name}.jsonl", "test": folder / f"test_{name}.py"}
    print("next:")
    for command in commands:
        print(" ", " ".join(_word(part.format(name=name, **values)) for part in command.split()))
    return 0


def _word(text: str) -> str:
    """As a shell takes it for one word; `plugins=[brevity.py]` stays as the pages of this kit have it."""
    plain = text.replace("[", "").replace("]", "")
    return text if shlex.quote(plain) == plain else shlex.quote(text)


def _refuse_taken(kind: str, name: str) -> None:
    """Raises ConfigError where the file would be written and then be of no use."""
    taken = ""
    if name in registry.names(kind):
        taken = f"{kind}={name} is there already"
    elif name in sys.stdlib_module_names or _is_installed(name):
        taken = f"'{name}' is a Python module: everybody who imports it would get {name}.py"
    if taken:
        fix = f"take another name, such as my_{name}"
        raise ConfigError(taken, where=f"plugins new {kind} {name}", fix=fix)


def _is_installed(name: str) -> bool:
    """Whether `import name` finds something that does not lie here: the current folder may be on Python's path."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if found is None or found.origin is None:  # a folder without __init__.py: a file goes before it
        return False
    return Path.cwd() not in list(Path(found.origin).parents)[:2]


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
