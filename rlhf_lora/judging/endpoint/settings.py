"""What can be set about a server that is asked, and what is refused before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.endpoint import keys

POSITIVE = "concurrency requests_per_minute tokens_per_minute attempts deadline idle max_calls max_tokens max_usd context".split()


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """A server that speaks OpenAI's `chat/completions`, and how far it may be trusted, loaded and paid.

    Attributes:
        base_url: as the server's manual gives it, mostly ending in /v1. Default: Ollama on this machine.
        model: as the server calls it.
        api_key_env: NAME of the environment variable with the key; never the key. None: no key is sent.
        ca_file: certificate authority (PEM) of a server with a certificate of its own.
        allow_insecure: http to other machines than this one.
        proxy: go through the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name; left alone otherwise.
        concurrency: questions under way at once; halved when the server says 429, then growing back.
        requests_per_minute, tokens_per_minute: the server's rate limits; None = none.
        attempts: for one question, of requests that fail in a way that may pass.
        deadline: seconds for one request from beginning to end.
        idle: seconds without a byte; until the first one a server thinks.
        wait_for_server: seconds that a server which stopped answering is waited for before the run stops.
        max_calls, max_tokens, max_usd: of the whole run, resumes included; None = no limit. Money needs prices.
        usd_per_million_in, usd_per_million_out: prices of a million tokens read and written.
        context: tokens that the model can hold; a question that is clearly longer is not sent. None = let the server tell.
        logprobs: ask for probabilities where an answer is one of a few words; left out where the server refuses.
        body: more for the body of each request, as the server's manual names it; null leaves a name out.
        cache: keep answers on disk and never ask the same twice.
    """

    base_url: str = "http://localhost:11434/v1"
    model: str
    api_key_env: str | None = None
    ca_file: str | None = None
    allow_insecure: bool = False
    proxy: bool = False
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 5
    deadline: float = 60.0
    idle: float = 30.0
    wait_for_server: float = 120.0
    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None
    context: int | None = None
    logprobs: bool = True
    body: dict[str, Any] = field(default_factory=dict)
    cache: bool = True

    not_compared = (
        "api_key_env", "ca_file", "proxy", "concurrency", "requests_per_minute", "tokens_per_minute", "attempts", "deadline",
        "idle", "wait_for_server", "max_calls", "max_tokens", "max_usd", "usd_per_million_in", "usd_per_million_out", "cache",
    )  # fmt: skip
    """What a run that is gone on with may change: how the server is asked, and not what it says."""

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"judge.{name} is {value}", where=f"judge.{name}", fix="more than 0")
        if self.wait_for_server < 0:
            raise ConfigError(
                f"judge.wait_for_server is {self.wait_for_server}",
                where="judge.wait_for_server",
                fix="seconds, 0 or more",
            )
        if self.max_usd is not None and (self.usd_per_million_in is None or self.usd_per_million_out is None):
            raise ConfigError(
                "a limit in money needs the prices", where="judge.max_usd",
                fix="judge.usd_per_million_in=… judge.usd_per_million_out=… (0 for what is free)",
            )  # fmt: skip
        _no_secrets(self)
        _checked_url(self.base_url)
        if self.api_key_env is not None:
            keys.check_name(self.api_key_env)

    @property
    def url(self) -> SplitResult:
        """The address in parts, without a slash at the end."""
        return urlsplit(self.base_url.rstrip("/"))

    @property
    def host(self) -> str:
        """`host` or `host:port`, in small letters: what an answer is known by, beside the question."""
        name = (self.url.hostname or "").rstrip(".")
        return f"{name}:{self.url.port}" if self.url.port else name

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost; 0 without prices."""
        return (tokens_in * (self.usd_per_million_in or 0) + tokens_out * (self.usd_per_million_out or 0)) / 1e6


def _checked_url(text: str) -> None:
    """Raises ConfigError: no http(s) address, or one with more in it than host, port and path. It is not shown: it may
    hold a password."""
    where, fix = "judge.base_url", "like https://api.openai.com/v1 or http://localhost:11434/v1"
    try:
        url = urlsplit(text)
        known = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        known = False
    if not known or not text.isascii() or any(sign.isspace() for sign in text):
        raise ConfigError("this is no address of a server", where=where, fix=fix)
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ConfigError(
            "an address may hold no user, password or query", where=where,
            fix=f"{fix}; a key goes into an environment variable, and its name into judge.api_key_env",
        )  # fmt: skip
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise ConfigError("base_url ends in /chat/completions", where=where, fix="leave that part out")


def _no_secrets(settings: EndpointSettings) -> None:
    texts = {
        "base_url": settings.base_url,
        "model": settings.model,
        **{f"body.{k}": v for k, v in settings.body.items()},
    }
    for name, value in texts.items():
        if keys.looks_secret(str(value)) or keys.names_secret(name):
            raise ConfigError(
                f"judge.{name} looks like a key; settings are written to the run folder", where=f"judge.{name}",
                fix="put the key into an environment variable, and give its name: judge.api_key_env=NAME",
            )  # fmt: skip
