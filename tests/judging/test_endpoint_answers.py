"""What was answered is kept before it is used, by everything that decides it; a damaged file stops nobody."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
import sys
from dataclasses import replace

import pytest
from asking import ask, endpoint, questions, readable, settings
from openai_server import PREFLIGHT, Server

from rlhf_lora.errors import Stopped
from rlhf_lora.judging.endpoint import answers
from rlhf_lora.judging.endpoint.answers import Answers
from rlhf_lora.judging.endpoint.completions import key_of, request_body
from rlhf_lora.judging.questions import Question


def paid(server: Server) -> int:
    return sum(count for id, count in server.paid.items() if id != PREFLIGHT)


def test_the_same_question_is_paid_once_at_once_and_in_another_run(tmp_path):
    with Server(latency=lambda request: 0.01) as server:
        opened = endpoint(server, tmp_path)
        (one,) = questions(1)
        together = opened.ask([replace(one, id=name) for name in "abcdef"], lambda question, answer: True)
        assert [answer.id for answer in together] == list("abcdef")
        assert {answer.text for answer in together} == {"re: q0"}
        opened.ask([one], readable)
        opened.close()
        assert ask(server, 1, tmp_path)[0].text == "re: q0"
        assert paid(server) == 1


def key(question: Question, **changed) -> str:
    about = settings(Server(port=80), **changed)
    return key_of(request_body(question, about, 0), question, about.host)


@pytest.mark.parametrize(
    ("question", "changed"),
    [
        ({"messages": ({"role": "user", "content": "other"},)}, {}),
        ({"messages": ({"role": "system", "content": "judge"},)}, {}),
        ({"choices": ("A", "B")}, {}),
        ({"max_tokens": 7}, {}),
        ({"temperature": 1.0}, {}),
        ({"versions": {"rubric": "2"}}, {}),
        ({"versions": {"parser": "1"}}, {}),
        ({}, {"model": "another"}),
        ({}, {"base_url": "http://127.0.0.1:81/v1"}),
        ({}, {"base_url": "http://localhost/v1"}),
        ({}, {"body": {"seed": 1}}),
    ],
)
def test_an_answer_is_known_by_all_that_decides_it(question, changed):
    plain = Question("a", ({"role": "user", "content": "id: a"},), versions={"rubric": "1"})
    assert key(replace(plain, **question), **changed) != key(plain)


def test_an_answer_is_not_known_by_what_does_not_decide_it():
    plain = Question("a", ({"role": "user", "content": "x"},), versions={"a": "1", "b": "2"})
    again = Question("b", ({"content": "x", "role": "user"},), versions={"b": "2", "a": "1"})
    assert key(plain) == key(again, concurrency=3, attempts=1, deadline=5.0, max_calls=3)


@pytest.mark.parametrize(
    "choice", [{"message": {"role": "assistant", "refusal": "no"}}, {"message": {"role": "assistant", "content": "hm"}}]
)
def test_refusals_and_what_cannot_be_read_are_not_kept(tmp_path, choice):
    with Server(choice=lambda request: choice if request.id != PREFLIGHT else {}) as server:
        assert ask(server, 1, tmp_path)[0].kind in ("refusal", "unreadable")
        server.choice = lambda request: {}
        assert ask(server, 1, tmp_path)[0].text == "re: q0"


def test_a_kept_answer_that_cannot_be_read_any_more_is_asked_for_again(tmp_path):
    with Server(answer=lambda request: f"re: {request.id}" if request.nth == 1 else "now") as server:
        opened = endpoint(server, tmp_path)
        opened.ask(questions(1), readable)
        assert opened.ask(questions(1), lambda question, answer: answer.text == "now")[0].text == "now"
        opened.close()


def test_it_is_on_disk_before_it_is_used(tmp_path):
    """Whoever looks, from another process, when the first answer comes back finds it there."""
    with Server() as server:
        opened = endpoint(server, tmp_path)
        opened.ask(questions(1), readable)
        looked = sqlite3.connect(tmp_path / answers.NAME)
        assert looked.execute("SELECT count(*) FROM answers").fetchone() == (1,)
        looked.close()
        opened.close()


@pytest.mark.parametrize("damage", ["garbage", "cut", "middle", "other"])
def test_a_damaged_file_is_moved_aside(tmp_path, damage):
    file = tmp_path / answers.NAME
    kept = Answers(file)
    for i in range(2000):
        kept.put(f"key-{i:064}", {"text": "x" * 50})
    kept.close()
    data = file.read_bytes()
    if damage == "other":
        file.unlink()
        base = sqlite3.connect(file)
        base.execute("CREATE TABLE answers (something INTEGER)")
        base.close()
    else:
        half = len(data) // 2
        middle = data[:half] + b"\xa5" * 8192 + data[half + 8192 :]
        file.write_bytes({"garbage": b"no database" * 1000, "cut": data[:half], "middle": middle}[damage])
    kept = Answers(file)
    kept.put("new", {"text": "y"})
    assert kept.get("new") == {"text": "y"}
    assert len(kept) == 1
    kept.close()
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_a_file_that_is_damaged_while_it_is_open_stops_nobody(tmp_path):
    with Server() as server:
        opened = endpoint(server, tmp_path)
        opened.ask(questions(40), readable)
        for file in tmp_path.glob(f"{answers.NAME}*"):
            if not file.name.endswith((".lock", "-shm")):
                file.write_bytes(b"\xa5" * 65536)
        assert [answer.text for answer in opened.ask(questions(40), readable)] == [f"re: q{i}" for i in range(40)]
        opened.close()


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such right there")
def test_a_place_that_cannot_be_written_stops_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with Server() as server:
        opened = endpoint(server, tmp_path)
        kept = opened._kept

        class Full:
            execute = staticmethod(full)
            close = staticmethod(kept._base.close)

        kept._base = Full()
        with pytest.raises(Stopped, match="cannot be kept: database or disk is full"):
            opened.ask(questions(1), readable)
        opened.close()
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


def write(file, who: int) -> None:
    kept = Answers(file)
    for i in range(200):
        kept.put(f"shared-{i}", {"text": f"{who}"})
        kept.put(f"own-{who}-{i}", {"text": f"{who}"})
        assert kept.get(f"own-{who}-{i}") == {"text": f"{who}"}
    kept.close()


def test_several_processes_write_at_once(tmp_path):
    file = tmp_path / answers.NAME
    file.write_bytes(b"damaged" * 100)  # all of them find it so
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = [start.Process(target=write, args=(file, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    kept = Answers(file)
    assert len(kept) == 200 + 3 * 200
    kept.close()
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
