"""Every command of `docs/judge_servers.md` composes, and its figures are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from tiny import few

from rlhf_lora import compose, registry
from rlhf_lora.judging.endpoint import keys, listener, outages, preflight, wire
from rlhf_lora.judging.endpoint.settings import EndpointSettings

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "judge_servers.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", few(COMMANDS, 2))
def test_each_judge_of_the_page_composes(command):
    program, verb, *given = shlex.split(command)
    assert (program, verb in ("train", "plan")) == ("rlhf-lora", True)
    config = compose(*(override for override in given if override.startswith("judge")))
    assert isinstance(registry.build("judge", config.judge), EndpointSettings)


def test_the_file_of_hosts_is_as_the_page_has_it(tmp_path, monkeypatch):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "hosts.yaml").write_text(text)
    monkeypatch.setenv(keys.FILE_ENV, str(tmp_path / "hosts.yaml"))
    assert keys.allowed_hosts()["TEAM_KEY"] == tuple(yaml.safe_load(text)["TEAM_KEY"])
    assert all(f"`{name}`" in PAGE for name in keys.BUILT_IN)


@pytest.mark.parametrize(
    "words",
    [
        f"judge.attempts={EndpointSettings(model='m').attempts}",
        f"judge.wait_for_server={EndpointSettings(model='m').wait_for_server:g}",
        f"judge.idle={EndpointSettings(model='m').idle:g}",
        f"judge.deadline={EndpointSettings(model='m').deadline:g}",
        f"judge.concurrency={EndpointSettings(model='m').concurrency}",
        f"{wire.CONNECT_S:g} s to connect",
        f"up to {wire.LONGEST_RETRY_AFTER_S:g} s",
        f"up to {listener.BACKOFF_S[0]:g}, 1, 2, … {listener.BACKOFF_S[1]:g} s",
        f"within {preflight.WITHIN_S:g} s",
        f"`{EndpointSettings(model='m').base_url}` (the default)",
    ],
)
def test_figures_of_the_page_are_those_of_the_code(words):
    assert words in PAGE


def test_words_for_numbers_are_right():
    assert (listener.UNREADABLE_AGAIN, outages.IN_A_ROW, wire.MAX_BODY) == (2, 10, 1 << 20)
