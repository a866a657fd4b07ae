"""The command line: `rlhf-lora VERB [overrides] [flags]`.

Results go to stdout, progress to stderr. Exit code 0 done; 2 what the user gave is wrong (one message, no traceback);
3 stopped with a checkpoint; 1 our fault; 130 or 143 interrupted with a checkpoint.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rlhf_lora import summary_text
from rlhf_lora.errors import ConfigError, RlhfLoraError, did_you_mean
from rlhf_lora.help_texts import HELP, USAGE

Flags = frozenset[str]
"""Of those in `FLAGS`, which were given; a verb gets no other, and options come among its words as `--option=VALUE`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a verb and exit with its code."""
    os.environ.setdefault(
        "GOMP_SPINCOUNT", "0"
    )  # read once, when torch is imported: spinning halves 4-bit speed on CPUs
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows knows no "→": a "?" there, not a traceback
            stream.reconfigure(errors="replace")
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a verb; returns the exit code. What the user did wrong is told in one message."""
    try:
        return _dispatch(arguments)
    except RlhfLoraError as error:
        _tell(str(error), error)
        return error.exit_code
    except KeyboardInterrupt as error:
        _tell("left at once; what was published is on disk", error)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"rlhf-lora: the disk is full\n  where: {error.filename or 'the run folder or the cache'}\n"
            "  to do: free some space, then give the same command: the run goes on from its last checkpoint",
            file=sys.stderr,
        )
        return 3


def _tell(what: str, error: BaseException) -> None:
    """The message, and what was noted on the error's way here."""
    print(f"rlhf-lora: {what}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["__complete"]:
        return _complete(" ".join(arguments[1:]))
    for option, (value, _) in OPTIONS.items():
        arguments = _joined(arguments, option, value)
    flags = [a for a in arguments if a.startswith("-") and "=" not in a]
    words = [a for a in arguments if a not in flags]
    if not words:
        if flags and not {"-h", "--help"} & set(flags):
            _refuse_flag(flags[0], ("--help",))
        print(USAGE, end="")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise ConfigError(
            f"there is no verb '{verb}'{did_you_mean(verb, VERBS)}",
            where=f"rlhf-lora {verb}",
            fix=f"verbs: {', '.join(VERBS)}",
        )
    if {"-h", "--help"} & set(flags):
        print(HELP[verb], end="")
        return 0
    known = flags_of(verb)
    given = [*flags, *(word.partition("=")[0] for word in rest if word.startswith("-"))]
    for flag in given:
        if flag not in known:
            _refuse_flag(flag, (*known, "--help"))
    return VERBS[verb](rest, frozenset(flags))


def _joined(arguments: list[str], option: str, value: str) -> list[str]:
    """`--option VALUE` as `--option=VALUE`: flags and overrides may then stand in any order."""
    if option not in arguments:
        return arguments
    at = arguments.index(option)
    if at + 1 == len(arguments) or arguments[at + 1].startswith("-"):
        raise ConfigError(f"{option} wants a {value}", where=option, fix=f"{option} {value.upper()}")
    return [*arguments[:at], f"{option}={arguments[at + 1]}", *_joined(arguments[at + 2 :], option, value)]


def _config_dir(words: list[str]) -> tuple[list[str], Path | None]:
    """Overrides, and the folder of `--config-dir=FOLDER`."""
    given = [word for word in words if word.startswith("--config-dir=")]
    return [word for word in words if word not in given], Path(given[-1].partition("=")[2]) if given else None


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Words, and what was given for each option among them."""
    options = {w.partition("=")[0]: w.partition("=")[2] for w in words if w.startswith("-")}
    return [word for word in words if not word.startswith("-")], options


def _refuse_flag(flag: str, known: Sequence[str]) -> NoReturn:
    raise ConfigError(
        f"there is no flag '{flag}'{did_you_mean(flag, known)}",
        where=flag,
        fix=f"flags: {', '.join(known)}; overrides are key=value",
    )


def _train(overrides: list[str], flags: Flags) -> int:
    from rlhf_lora import notebook

    if {"-m", "--multirun"} & flags:
        return _sweep(overrides)
    overrides, own = _config_dir(overrides)
    _refuse_sweep(overrides, "add -m")
    run = notebook.start(notebook.compose(*overrides, config_dir=own))
    if run.was_finished:
        print("finished before, with this configuration", file=sys.stderr)
    run.finish()
    print(*summary_text.lines(run.summary), run.folder, sep="\n")
    return 0


def _refuse_sweep(overrides: list[str], fix: str) -> None:
    for override in overrides:
        if override.partition("=")[0].split(".")[0] == "sweep":
            raise ConfigError(f"{override} is for a sweep", where=override, fix=fix)


def _sweep(words: list[str]) -> int:
    from rlhf_lora.sweep.runner import run_sweep

    return run_sweep(*_config_dir(words))


def _plan(overrides: list[str], flags: Flags) -> int:
    from rlhf_lora import config, plan, plan_view

    overrides, own = _config_dir(overrides)
    _refuse_sweep(overrides, "rlhf-lora train … -m checks every job as the plan does, before the first begins")
    made = plan.make_plan(config.compose(*overrides, config_dir=own))
    if "--json" in flags:
        print(json.dumps(plan_view.as_json(made), indent=1))
        return 0
    from rich.console import Console

    plan_view.show(made, Console(soft_wrap=True))
    return 0


def _evaluate(words: list[str], flags: Flags) -> int:
    words, options = _options(words)
    runs, overrides = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if not runs and any(override.startswith("judge=") for override in overrides):
        from rlhf_lora import judge_verb

        return judge_verb.run(overrides, options, "--json" in flags)
    if len(runs) != 1:
        raise ConfigError(
            f"evaluate wants one run folder, got {len(runs)}", where="rlhf-lora evaluate",
            fix="rlhf-lora evaluate RUN, or rlhf-lora evaluate judge=NAME dataset=…",
        )  # fmt: skip
    if options:
        raise ConfigError(
            f"{next(iter(options))} is for a judge that is measured", where="rlhf-lora evaluate RUN",
            fix="leave it out, or rlhf-lora evaluate judge=NAME dataset=…",
        )  # fmt: skip
    from rlhf_lora.evaluation import evaluate

    figures = evaluate(runs[0], *overrides)
    if "--json" in flags:
        print(json.dumps(figures, indent=1))
    else:
        print(*summary_text.lines(figures), sep="\n")
    return 0


def _chat(words: list[str], flags: Flags) -> int:
    from rlhf_lora import chat_verb

    words, options = _options(words)
    return chat_verb.run(words, options, "--json" in flags)


def _verify(words: list[str], flags: Flags) -> int:
    from rlhf_lora import config, plan, verify

    overrides, own = _config_dir(words)
    _refuse_sweep(overrides, "one configuration at a time")
    profile = next((word.partition("=")[2] for word in overrides if word.startswith("--profile=")), None)
    overrides = verify.with_profile([word for word in overrides if not word.startswith("--profile=")], profile)
    made = plan.make_plan(config.compose(*overrides, config_dir=own))
    results = verify.verify(made)
    if "--json" in flags:
        print(json.dumps(verify.as_json(results, made, profile), indent=1))
    else:
        from rich.console import Console

        verify.show(results, Console(soft_wrap=False))
    return 3 if verify.counts(results)["failed"] else 0


def _report(runs: list[str], flags: Flags) -> int:
    from rlhf_lora.report import write_model_card, write_report
    from rlhf_lora.run_folder import find_run

    if not runs:
        raise ConfigError("report wants at least one run folder", where="rlhf-lora report", fix="rlhf-lora report RUN")
    for path in runs:
        folder = find_run(path)
        write_model_card(folder)
        print(write_report(folder))
    return 0


def _plugins(words: list[str], flags: Flags) -> int:
    from rlhf_lora import plugin_verbs

    return plugin_verbs.run(words, flags)


def _env(words: list[str], flags: Flags) -> int:
    from rlhf_lora import environment

    if words:
        raise ConfigError(f"env takes no '{words[0]}'", where="rlhf-lora env", fix="rlhf-lora env [--json] [--gpu]")
    found = environment.environment(gpu="--gpu" in flags)
    print(json.dumps(found, indent=1) if "--json" in flags else environment.as_text(found).rstrip())
    return 0


def _completion(words: list[str], flags: Flags) -> int:
    from rlhf_lora.completion import SHELLS, script

    if len(words) != 1 or words[0] not in SHELLS:
        raise ConfigError(
            f"completion wants a shell{did_you_mean(words[0], SHELLS) if words else ''}",
            where=" ".join(["rlhf-lora completion", *words]),
            fix=f"rlhf-lora completion {'|'.join(SHELLS)}",
        )
    print(script(words[0]), end="")
    return 0


def _complete(line: str) -> int:
    """Candidates for the last word, one a line. Whatever goes wrong, a key press prints no message into somebody's line."""
    from rlhf_lora.completion import candidates

    try:
        found = candidates(line, {verb: flags_of(verb) for verb in VERBS})
    except Exception:
        if os.environ.get("RLHF_LORA_DEBUG"):
            raise
        return 1
    print("\n".join(found))
    return 0


VERBS: dict[str, Callable[[list[str], Flags], int]] = {
    "train": _train,
    "plan": _plan,
    "evaluate": _evaluate,
    "chat": _chat,
    "verify": _verify,
    "report": _report,
    "plugins": _plugins,
    "env": _env,
    "completion": _completion,
}

FLAGS = {
    "train": ("-m", "--multirun"),
    "plan": ("--json",),
    "evaluate": ("--json",),
    "chat": ("--json",),
    "verify": ("--json",),
    "plugins": ("--json",),
    "env": ("--json", "--gpu"),
}

OPTIONS = {
    "--config-dir": ("folder", ("train", "plan", "verify", "evaluate")),
    "--profile": ("name", ("verify",)),
    "--best-of": ("number", ("chat",)),
    "--prompt": ("text", ("chat",)),
    "--data": ("file", ("plugins",)),
    "--run": ("run", ("plugins",)),
    "--to": ("path", ("plugins", "evaluate")),
    "--deadline": ("seconds", ("plugins",)),
    "-n": ("number", ("plugins", "evaluate")),
}
"""Option → what it takes, and the verbs that have it."""


def flags_of(verb: str) -> tuple[str, ...]:
    """Flags and options that a verb knows."""
    return (*FLAGS.get(verb, ()), *(option for option, (_, verbs) in OPTIONS.items() if verb in verbs))


if __name__ == "__main__":
    main()
