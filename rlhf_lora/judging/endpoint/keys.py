"""API keys: by the name of an environment variable, sent to the hosts that the name is bound to and to no other.

A configuration can come from somebody else. One that says `base_url: https://evil.example` and `api_key_env: HF_TOKEN` gets
nothing: which hosts a name may be sent to is told by this table and by a file of the user's, outside every run's
configuration.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import SplitResult

from rlhf_lora.errors import ConfigError

FILE_ENV = "RLHF_LORA_KEY_HOSTS"
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("api.openai.com",),
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "GROQ_API_KEY": ("api.groq.com",),
    "TOGETHER_API_KEY": ("api.together.xyz",),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "HF_TOKEN": ("router.huggingface.co",),
    "VLLM_API_KEY": ("localhost", "127.0.0.1", "[::1]"),
    "LM_API_TOKEN": ("localhost", "127.0.0.1", "[::1]"),
}
"""Variable → hosts. A name in the user's file takes the place of the one here."""
HIDDEN = "[key]"
SHORTEST = 8
"""Characters of a key that is looked for in texts: a stand-in such as "none" or "EMPTY" is a word like any other."""
_SECRET = re.compile(
    r"\b(sk|pk|rk)-[A-Za-z0-9_-]{16,}|\b(hf|gsk|r8|ghp)_[A-Za-z0-9]{20,}|\b(xai|nvapi|glpat)-[A-Za-z0-9_-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}|\bAIza[0-9A-Za-z_-]{30,}|\bBearer\s+\S{8,}"
)
_SECRET_NAME = re.compile(r"(?i)(api[-_]?key|secret|password|authorization|access[-_]?token|auth[-_]?token)$")


def looks_secret(text: str) -> bool:
    """It has the form of a key of one of the known services."""
    return bool(_SECRET.search(text))


def names_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name))


def check_name(name: str) -> None:
    """Raises ConfigError: what should name a variable looks like the key itself. It is not repeated."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{1,63}", name) or looks_secret(name):
        raise ConfigError(
            "api_key_env is not the name of an environment variable (capital letters, digits, underscores)",
            where="judge.api_key_env",
            fix="export MY_KEY=… in the shell, then judge.api_key_env=MY_KEY. If what you gave is a key, it stands in your "
            "shell's history: have it replaced",
        )


def hosts_file() -> Path:
    """Where a user says which hosts a name may be sent to: $RLHF_LORA_KEY_HOSTS, else in the configuration folder."""
    given = os.environ.get(FILE_ENV)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(given).expanduser() if given else home / "rlhf_lora" / "key_hosts.yaml"


def allowed_hosts() -> dict[str, tuple[str, ...]]:
    """Variable → hosts it may be sent to.

    Raises:
        ConfigError: the user's file cannot be read.
    """
    file = hosts_file()
    if not file.is_file():
        return dict(BUILT_IN)
    import yaml

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        own = {
            str(name): (hosts,) if isinstance(hosts, str) else tuple(map(str, hosts)) for name, hosts in told.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the file that binds keys to hosts cannot be read: {type(error).__name__}", where=str(file),
            fix="lines such as MY_KEY: [llm.example.org]",
        ) from None  # fmt: skip
    return {**BUILT_IN, **own}


def key_for(name: str | None, url: SplitResult) -> str | None:
    """The key to be sent to `url`; None where none is named.

    Raises:
        ConfigError: the variable is not set, or it may not be sent there.
    """
    if name is None:
        return None
    check_name(name)
    hosts = allowed_hosts().get(name, ())
    if not any(_matches(allowed, url) for allowed in hosts):
        to = f"to {', '.join(hosts)} alone" if hosts else "to no host yet"
        raise ConfigError(
            f"{name} may be sent {to}, not to {url.scheme}://{url.netloc}", where="judge.api_key_env",
            fix=f"if you trust that host with it, write the line `{name}: [{_binding(url)}]` into {hosts_file()}",
        )  # fmt: skip
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {name} is not set", where="judge.api_key_env", fix=f"export {name}=…"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{name} holds what cannot be a key (spaces, or signs that are not ASCII)", where="judge.api_key_env"
        )
    return key


def _binding(url: SplitResult) -> str:
    return f'"{url.scheme}://{url.netloc}"' if url.scheme == "http" and not _is_this_machine(url) else url.netloc


def _matches(allowed: str, url: SplitResult) -> bool:
    """`host` or `host:port`, over TLS or on this machine; in plain text to another one only where it says `http://host`."""
    scheme, _, rest = allowed.rpartition("://")
    if scheme != url.scheme and (scheme or (url.scheme == "http" and not _is_this_machine(url))):
        return False
    host, there = rest.lower().rstrip("/."), url.netloc.lower().rstrip(".")
    return host == there or host == there.removesuffix(f":{url.port}").rstrip(".")


def _is_this_machine(url: SplitResult) -> bool:
    """By its name: what the name leads to is looked at when a connection is made."""
    return (url.hostname or "") in ("localhost", "127.0.0.1", "::1")


class Redactor(logging.Filter):
    """Takes keys out of texts, and out of what the client library logs.

    Args:
        keys: what must not be seen; None and what is too short to be a key are left out.
    """

    LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "asyncio")

    def __init__(self, keys: Iterable[str | None]):
        super().__init__()
        self._keys = [key for key in keys if key and len(key) >= SHORTEST]

    def __call__(self, text: str) -> str:
        for key in self._keys:
            text = text.replace(key, HIDDEN)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if (clean := self(message)) != message:
            record.msg, record.args = clean, ()
        return True

    def attach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeFilter(self)
