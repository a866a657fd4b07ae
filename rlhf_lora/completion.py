"""Completion in the shell: verbs, flags, groups with their choices, settings of what is chosen.

`rlhf-lora completion SHELL` prints a script. At a key press the script asks `rlhf-lora __complete LINE`, which answers
with one candidate a line, or with nothing where a file is wanted: the shell then completes files by itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora import completion_index, user_presets

SHELLS = ("bash", "zsh", "fish")
OVERRIDES = ("train", "plan", "evaluate", "chat", "verify")
"""Verbs that take overrides."""
PLUGIN_VERBS = ("new", "check", "try")
CHOICES = {
    "resume": ("auto", "never", "mended"),
    "stages": ("[sft]", "[sft,reward_model]", "[sft,reward_model,policy]"),
    "hardware.device": ("auto", "cpu", "cuda"),
    "model.template": ("auto", "chat", "plain"),
    "model.dtype": ("bfloat16", "float32"),
    "evaluation.keep": ("last", "best"),
    "evaluation.split": ("final", "tuning"),
    "sweep.sampler": ("grid", "optuna"),
    "sweep.direction": ("maximize", "minimize"),
}


def candidates(line: str, verbs: Mapping[str, Sequence[str]]) -> list[str]:
    """What the last word of `line` can become; none where a file is wanted or nothing is known.

    Args:
        line: the words after `rlhf-lora`, up to the cursor.
        verbs: verb → its flags.
    """
    words = line.split()
    current = words.pop() if words and not line[-1].isspace() else ""
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is None:
        found: Iterator[str] = iter([*verbs, "--help"])
    elif current.startswith("-"):
        found = iter(
            [*verbs.get(verb, ()), *(["--config-dir"] if verb in ("train", "plan", "verify") else []), "--help"]
        )
    elif words[-1] in ("--config-dir", "--to", "-n", "--best-of", "--prompt"):
        found = iter([])
    elif verb == "completion":
        found = iter(SHELLS)
    elif verb == "plugins":
        found = _plugin_words(words[words.index("plugins") + 1 :], current)
    elif verb == "evaluate" and len(words) == 1 and (not current or not current.startswith("judge="[: len(current)])):
        found = iter([])  # a run folder first, or judge=
    elif verb == "chat" and len(words) == 1:
        found = iter([])  # a run folder
    elif verb in OVERRIDES:
        found = _overrides(words, current)
    else:
        found = iter([])
    return sorted({word for word in found if word.startswith(current) and word != current})


def _plugin_words(words: Sequence[str], current: str) -> Iterator[str]:
    """After `plugins`: kinds and verbs; after `new` a kind, after `check` names (or a file), after `try` overrides."""
    index = completion_index.index()
    if words and words[-1] in ("--data", "--run", "--to", "--deadline", "-n"):
        return iter([])
    if not words:
        return iter([*index["kinds"], *PLUGIN_VERBS, "plugins="])
    if words[0] == "new":
        return iter(index["kinds"] if len(words) == 1 else [])
    if words[0] == "check":
        names = sorted({name for kind in index["plugins"].values() for name in kind})
        return iter(names if len(words) == 1 and current else [])  # nothing typed: a file, which the shell completes
    return _overrides(words, current) if words[0] == "try" else iter(["plugins="])


def _overrides(words: Sequence[str], current: str) -> Iterator[str]:
    index = completion_index.index()
    groups = {group: list(names) for group, names in index["groups"].items()}
    plugins = {kind: dict(names) for kind, names in index["plugins"].items()}
    for file in _plugin_files(words):
        for kind, entries in completion_index.in_plugin_file(file).items():
            plugins.setdefault(kind, {}).update(entries)
            groups.setdefault(kind, []).extend(entries)
    for group, names in _own_presets(words).items():
        groups.setdefault(group, []).extend(names)
    key, equals, value = current.partition("=")
    bare = key.lstrip("+")
    if equals:
        done, comma, _ = value.rpartition(",")  # of a sweep: optimizer=ppo,d
        for choice in groups.get(bare) or _values(bare, index, plugins):
            yield f"{key}={done}{comma}{choice}"
        return
    keys = [*(f"{group}=" for group in groups), *_keys(words, index, plugins)]
    yield from (f"{'+' * (len(key) - len(bare))}{shown}" for shown in _one_step(keys, bare))


def _keys(words: Sequence[str], index: Mapping[str, Any], plugins: Mapping[str, Any]) -> Iterator[str]:
    """`optimizer.beta=`: every setting of the schema and of the plugins that are chosen."""
    for section, names in index["settings"].items():
        yield from (f"{section}.{name}=" if section else f"{name}=" for name in names)
    chosen = dict(index["defaults"]) | {key: value for key, _, value in (word.partition("=") for word in words)}
    for kind, entries in plugins.items():
        names = [name for name in str(chosen.get(kind, "")).split(",") if name in entries] or list(entries)
        yield from (f"{kind}.{setting}=" for name in names for setting in entries[name])


def _one_step(keys: Sequence[str], typed: str) -> Iterator[str]:
    """Up to the next dot: `opt` → `optimizer=`, `optimizer.`; `optimizer.` → its settings and `optimizer.adamw.`."""
    for key in keys:
        if key.startswith(typed):
            rest = key[len(typed) :]
            yield typed + rest.partition(".")[0] + "." if "." in rest else key


def _values(key: str, index: Mapping[str, Any], plugins: Mapping[str, Any]) -> Sequence[str]:
    """Values of a setting that has few: yes or no, or one of some words."""
    if key in CHOICES:
        return CHOICES[key]
    section, _, name = key.rpartition(".")
    top, _, deeper = key.partition(".")
    kinds = {index["settings"].get(section, {}).get(name)}
    kinds |= {settings.get(deeper) for settings in plugins.get(top, {}).values()}
    return ("true", "false") if "bool" in kinds else ()


def _plugin_files(words: Sequence[str]) -> list[str]:
    given = next((word.partition("=")[2] for word in words if word.startswith("plugins=")), "")
    return [file.strip("'\" ") for file in given.strip("'\"[]").split(",") if file]


def _own_presets(words: Sequence[str]) -> dict[str, list[str]]:
    """group → names, of the folder given with --config-dir."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    given += [after for word, after in itertools.pairwise(words) if word == "--config-dir"]
    if not given:
        return {}
    folder = Path(os.path.expanduser(given[-1]))
    try:
        groups = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return {}
    return {group: names for group in groups if (names := user_presets.names(folder, group))}


def script(shell: str) -> str:
    """The script that one line in the shell's start file reads in."""
    return {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]


BASH = r"""# rlhf-lora: completion for bash. In ~/.bashrc:  eval "$(rlhf-lora completion bash)"
_rlhf_lora() {
    local line current prefix
    line="${COMP_LINE:0:COMP_POINT}"
    line="${line#*[[:space:]]}"
    current="${line##*[[:space:]]}"
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" __complete "$line" 2>/dev/null))
    # bash breaks words at "=" and completes only what comes after it
    if [[ $COMP_WORDBREAKS == *"="* && $current == *"="* ]]; then
        prefix="${current%"${current##*=}"}"
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[.=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _rlhf_lora rlhf-lora
"""

ZSH = r"""#compdef rlhf-lora
# rlhf-lora: completion for zsh. In ~/.zshrc, after compinit:  eval "$(rlhf-lora completion zsh)"
_rlhf_lora() {
    local -a found open closed
    found=("${(@f)$("$words[1]" __complete "${(j: :)words[2,CURRENT]}" 2>/dev/null)}")
    open=("${(@M)found:#*[.=]}")
    closed=("${(@)found:#*[.=]}")
    open=("${(@)open:#}")
    closed=("${(@)closed:#}")
    if (( $#open + $#closed )); then
        (( $#open )) && compadd -S '' -- "${open[@]}"
        (( $#closed )) && compadd -- "${closed[@]}"
        return 0
    fi
    compset -P '*='
    _files
}
compdef _rlhf_lora rlhf-lora
"""

FISH = r"""# rlhf-lora: completion for fish. Once:
#   rlhf-lora completion fish > ~/.config/fish/completions/rlhf-lora.fish
function __rlhf_lora_complete
    set -l before (commandline -opc)
    $before[1] __complete (string join ' ' -- $before[2..-1] (commandline -ct)) 2>/dev/null
end
complete -c rlhf-lora -a '(__rlhf_lora_complete)'
"""
