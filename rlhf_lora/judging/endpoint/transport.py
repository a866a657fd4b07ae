"""How connections are made: to addresses that were looked at, with certificates that are verified."""

from __future__ import annotations

import ssl
import time
from typing import Any

import httpx2

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.endpoint.addresses import look_up
from rlhf_lora.judging.endpoint.settings import EndpointSettings

LOOK_UP_AGAIN_S = 60.0


def transport_to(settings: EndpointSettings) -> httpx2.AsyncBaseTransport:
    """As the settings say.

    Raises:
        ConfigError: the CA file cannot be used.
    """
    tls = _tls(settings)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency, keepalive_expiry=15.0)
    proxy = _proxy(settings) if settings.proxy else None
    if proxy is not None:  # it looks the name up
        return httpx2.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits, proxy=proxy)
    return LookedUp(verify=tls, trust_env=False, limits=limits, plain_text=not settings.allow_insecure)


class LookedUp(httpx2.AsyncHTTPTransport):
    """Looks the host's name up, checks where it leads, and connects to just that; TLS and Host still bear the name.

    Args:
        plain_text: whether http is kept to this machine.
    """

    def __init__(self, *, plain_text: bool, **rest: Any):
        super().__init__(**rest)
        self._plain_text = plain_text
        self._found: dict[tuple[str, int, bool], tuple[float, list[str]]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host, secure = request.url.host, request.url.scheme == "https"
        place = (host, request.url.port or (443 if secure else 80), self._plain_text and not secure)
        addresses = await self._addresses(place)
        named = request.url
        request.extensions = {**request.extensions, "sni_hostname": host}
        for i, address in enumerate(addresses):
            request.url = named.copy_with(host=address.partition("%")[0])
            try:
                response = await super().handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if i == len(addresses) - 1:
                    self._found.pop(place, None)
                    raise
            else:
                addresses.insert(0, addresses.pop(i))  # `localhost` is often ::1 first, and the server on 127.0.0.1
                return response
            finally:
                request.url = named
        raise httpx2.ConnectError(f"{host} has no address")

    async def _addresses(self, place: tuple[str, int, bool]) -> list[str]:
        until, known = self._found.get(place, (0.0, []))
        if time.monotonic() >= until:
            known = await look_up(place[0], place[1], plain_text=place[2])
            self._found[place] = (time.monotonic() + LOOK_UP_AGAIN_S, known)
        return known


def _tls(settings: EndpointSettings) -> ssl.SSLContext:
    """Raises ConfigError: the CA file cannot be used."""
    if settings.url.scheme == "http" and not settings.proxy:
        return ssl.SSLContext(
            ssl.PROTOCOL_TLS_CLIENT
        )  # trusts nobody and is not used: reading the system's takes a while
    if settings.ca_file is None:
        return httpx2.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates cannot be read: {error}", where=f"judge.ca_file={settings.ca_file}",
            fix="a file with the certificate of the authority, in PEM",
        ) from None  # fmt: skip


def _proxy(settings: EndpointSettings) -> str | None:
    """The proxy that the environment names for this server."""
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(settings.url.hostname or ""):
        return None
    found = getproxies()
    return found.get(settings.url.scheme) or found.get("all")
