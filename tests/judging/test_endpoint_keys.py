"""A key goes to the hosts it is bound to, over TLS, and is seen nowhere else; nothing goes where a cloud keeps its secrets."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asking import ask, endpoint, questions, readable
from openai_server import Server

from rlhf_lora.errors import ConfigError, Stopped
from rlhf_lora.judging.endpoint import addresses, keys

KEY = "canary-0123456789-abcdef"


@pytest.fixture
def bound(tmp_path, monkeypatch):
    """JUDGE_KEY is set, and bound to this machine."""
    file = tmp_path / "key_hosts.yaml"
    file.write_text("JUDGE_KEY: 127.0.0.1\nELSEWHERE_KEY: [llm.example.org, 10.0.0.5:8443, 'http://10.0.0.6:8000']\n")
    monkeypatch.setenv(keys.FILE_ENV, str(file))
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("ELSEWHERE_KEY", KEY)
    return file


# --- which host a key may be sent to ----------------------------------------------------------------------------------


def test_the_key_is_sent_as_a_bearer_token(bound):
    with Server(key=KEY) as server:
        assert ask(server, api_key_env="JUDGE_KEY")[0].kind == "text"


@pytest.mark.parametrize(
    ("name", "url", "allowed"),
    [
        ("OPENAI_API_KEY", "https://api.openai.com/v1", True),
        ("OPENAI_API_KEY", "https://API.openai.com./v1", True),
        ("OPENAI_API_KEY", "http://api.openai.com/v1", False),
        ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1", False),
        ("OPENAI_API_KEY", "https://evil.example/api.openai.com", False),
        ("OPENAI_API_KEY", "http://localhost:8000/v1", False),
        ("HF_TOKEN", "https://api.openai.com/v1", False),
        ("VLLM_API_KEY", "http://localhost:8000/v1", True),
        ("AWS_SECRET_ACCESS_KEY", "https://api.openai.com/v1", False),
        ("ELSEWHERE_KEY", "https://llm.example.org/v1", True),
        ("ELSEWHERE_KEY", "https://llm.example.org:444/v1", True),
        ("ELSEWHERE_KEY", "http://llm.example.org/v1", False),
        ("ELSEWHERE_KEY", "https://10.0.0.5:8443/v1", True),
        ("ELSEWHERE_KEY", "https://10.0.0.5:8444/v1", False),
        ("ELSEWHERE_KEY", "http://10.0.0.6:8000/v1", True),
        ("ELSEWHERE_KEY", "https://10.0.0.6:8000/v1", False),
    ],
)
def test_a_name_is_bound_to_hosts_outside_the_configuration(bound, monkeypatch, name, url, allowed):
    monkeypatch.setenv(name, KEY)
    if allowed:
        assert keys.key_for(name, urlsplit(url)) == KEY
        return
    with pytest.raises(ConfigError, match=f"{name} may be sent to") as refused:
        keys.key_for(name, urlsplit(url))
    assert str(bound) in str(refused.value)  # where to allow it
    assert KEY not in str(refused.value)


def test_a_changed_base_url_gets_no_key_and_no_request(bound):
    with Server() as evil, pytest.raises(ConfigError, match="may be sent to"):
        ask(evil, base_url=evil.url.replace("127.0.0.1", "localhost"), api_key_env="JUDGE_KEY")
    assert not evil.requests


def test_the_key_does_not_follow_a_redirect(bound):
    with Server() as evil:
        faults = iter([None, "redirect"])
        with Server(
            key=KEY, early=True, location=f"{evil.url}/chat/completions", fault=lambda _: next(faults)
        ) as server:
            opened = endpoint(server, api_key_env="JUDGE_KEY")
            with pytest.raises(Stopped, match=r"redirects to 127\.0\.0\.1, and redirects are not followed"):
                opened.ask(questions(1), readable)
            opened.close()
        assert not evil.requests


@pytest.mark.parametrize("text", ["[1, 2", "- a", "JUDGE_KEY: 3", "\x00"])
def test_a_broken_file_of_hosts_is_told(bound, text):
    bound.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.allowed_hosts()


def test_a_variable_that_is_not_set_or_is_no_key_is_told(bound, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        keys.key_for("JUDGE_KEY", urlsplit("http://127.0.0.1/v1"))
    monkeypatch.setenv("JUDGE_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="cannot be a key"):
        keys.key_for("JUDGE_KEY", urlsplit("http://127.0.0.1/v1"))


# --- where a key must not be seen -------------------------------------------------------------------------------------


def test_a_server_that_repeats_the_key_does_not_get_it_into_messages(bound, monkeypatch):
    with Server(key="another") as server, pytest.raises(ConfigError, match="refuses the key") as refused:
        ask(server, api_key_env="JUDGE_KEY")
    assert KEY not in str(refused.value)
    assert keys.HIDDEN in str(refused.value)


def test_no_key_in_answers_logs_files_or_what_is_printed(bound, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with Server(
        key=KEY,
        answer=lambda request: f"re: {request.id} {request.headers.get('authorization')}",
        fault=lambda request: f"400:bad {KEY}" if request.id == "q1" else f"500:{KEY}" if request.nth == 1 else None,
    ) as server:
        opened = endpoint(server, tmp_path / "kept", api_key_env="JUDGE_KEY")
        answers = opened.ask(questions(3), lambda question, answer: True)
        opened.close()
    assert answers[0].text == f"re: q0 Bearer {keys.HIDDEN}"
    seen = [repr(answers), repr(opened.settings), caplog.text, *capfd.readouterr()]
    seen += [file.read_bytes().decode("latin-1") for file in (tmp_path / "kept").iterdir()]
    assert "HTTP Request: POST" in caplog.text
    assert not [text for text in seen if KEY in text]


def test_a_stand_in_for_a_key_does_not_blank_out_words():
    redact = keys.Redactor(["none", None, KEY])
    assert redact(f"none of {KEY}") == f"none of {keys.HIDDEN}"


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "240.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_never_a_model_server_are_refused(address):
    assert addresses.refusal(address, plain_text=False)


@pytest.mark.parametrize(
    ("address", "over_tls", "in_plain_text"),
    [("127.0.0.1", True, True), ("::1", True, True), ("192.168.1.5", True, False), ("8.8.8.8", True, False)],
)
def test_plain_text_stays_on_this_machine(address, over_tls, in_plain_text):
    assert (addresses.refusal(address, plain_text=False) == "") is over_tls
    assert (addresses.refusal(address, plain_text=True) == "") is in_plain_text


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xA9FEA9FE", "metadata.example"])
def test_what_a_name_leads_to_is_looked_at(monkeypatch, host):
    plain = socket.getaddrinfo

    def leads(name, *rest, **more):
        return plain("169.254.169.254" if name == "metadata.example" else name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", leads)
    server = Server(port=80)
    with pytest.raises(ConfigError, match=r"leads to 169\.254\.169\.254") as refused:
        ask(server, base_url=f"http://{host}/v1", allow_insecure=True)
    assert refused.value.where == "judge.base_url"


def test_a_name_that_leads_elsewhere_a_moment_later_leads_nowhere(monkeypatch):
    """The address that was checked is the one that is connected to: the name is looked up once, not again to connect."""
    plain, asked = socket.getaddrinfo, []

    def leads(name, *rest, **more):
        asked.append(name)
        return plain("127.0.0.1" if asked.count("rebinds.example") < 2 else "169.254.169.254", *rest, **more)

    with Server() as server:
        monkeypatch.setattr(socket, "getaddrinfo", leads)
        assert ask(server, base_url=f"http://rebinds.example:{server.port}/v1")[0].kind == "text"
    assert server.requests[0].headers["host"] == f"rebinds.example:{server.port}"
    assert asked.count("rebinds.example") == 1


def test_http_to_another_machine_wants_a_word(monkeypatch):
    with pytest.raises(ConfigError, match=r"judge\.allow_insecure=true"):
        ask(Server(port=80), base_url="http://192.168.77.77/v1")


def test_a_name_with_several_addresses_goes_to_the_one_that_answers(monkeypatch):
    plain = socket.getaddrinfo

    def leads(name, *rest, **more):  # nobody listens at the first
        return plain("::1", *rest, **more) + plain("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", leads)
    with Server() as server:
        assert ask(server, 5, base_url=f"http://localhost:{server.port}/v1")[0].kind == "text"


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """Signed by itself, for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=judge -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
    )
    return files


def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent(bound, certificate):
    with Server(tls=certificate) as server, pytest.raises(ConfigError, match="certificate is not trusted") as refused:
        ask(server, api_key_env="JUDGE_KEY")
    assert "judge.ca_file" in str(refused.value)
    assert not server.requests


def test_a_certificate_of_ones_own_is_trusted_when_its_file_is_given(bound, certificate):
    with Server(tls=certificate, key=KEY) as server:
        assert ask(server, 3, ca_file=certificate[0], api_key_env="JUDGE_KEY")[2].text == "re: q2"


def test_a_certificate_for_another_name_is_refused(certificate):
    with Server(tls=certificate) as server, pytest.raises(ConfigError, match="certificate is not trusted"):
        ask(server, base_url=server.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0])


def test_a_file_that_holds_no_certificate_is_told(tmp_path):
    Path(tmp_path / "ca.pem").write_text("no")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="certificates cannot be read"):
            ask(Server(port=443), base_url="https://127.0.0.1/v1", ca_file=os.fspath(tmp_path / name))
