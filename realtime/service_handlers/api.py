"""The requests of a service to the server."""

import asyncio
import logging
import random
from typing import Any, Self

import aiohttp
import msgspec

from realtime.consumer.events import StreamEvent
from realtime.service_handlers.handled import Transition

log = logging.getLogger("realtime.service_handlers")

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 4
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 300.0
REPEATED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class ServiceApiError(Exception):
    """A request to the server failed. ``status`` is 0 if there was no answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code


class ServiceApi:
    """The HTTP API of the server, as a service uses it.

    Args:
        url: The address of the server.
        alias: The service.
        api_key: Its key, or a token.
    """

    def __init__(self, url: str, alias: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._alias = alias
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def answer(self, event: StreamEvent, answer: Transition) -> None:
        """Run the transition of an answer, once for an event, however often it is sent.

        A transition that the flow refuses is logged: a repetition would be refused too.

        Raises:
            ServiceApiError: The server cannot be reached, or refuses the credential.
        """
        flow_id = event.data["flowId"]
        body = {} if answer.payload is None else {"payload": answer.payload}
        try:
            await self._request(
                "POST",
                f"/api/flow/{flow_id}/transition/{answer.name}",
                params=_state_query(event),
                headers={"Idempotency-Key": event.id},
                body=body,
            )
        except ServiceApiError as error:
            if error.status == 401 or not 400 <= error.status < 500:
                raise
            if error.status == 403 and await self.state(event) is not None:
                raise  # the state still waits at the step of the service, so the credential is at fault
            log.warning("answer refused: %s to the event %s: %s", answer.name, event.id, error)

    async def state(self, event: StreamEvent) -> dict[str, Any] | None:
        """Return the state of an event; None if it is not at the position of the event any more."""
        path = f"/api/flow/{event.data['flowId']}/state"
        try:
            state = await self._request("GET", path, params=_state_query(event))
        except ServiceApiError as error:
            if error.status == 404:
                return None
            raise
        position = [state.get(name) for name in ("epoch", "revision")]
        return state if position == [event.data.get(name) for name in ("epoch", "revision")] else None

    async def events(self, after: int, limit: int) -> dict[str, Any]:
        """Return a page of the deliveries of the service after a sequence number."""
        return await self._request(
            "GET", f"/api/services/{self._alias}/events", params={"after": str(after), "limit": str(limit)}
        )

    async def pending(self, after: str | None, limit: int) -> dict[str, Any]:
        """Return a page of the states that wait at a step of the service."""
        params = {"limit": str(limit)} | ({} if after is None else {"after": after})
        return await self._request("GET", f"/api/services/{self._alias}/pending", params=params)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str],
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send a request, again after failures that may pass."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._send(method, path, params, headers, body)
            except ServiceApiError as error:
                repeated = error.status == 0 or error.status in REPEATED_STATUSES
                if attempt == ATTEMPTS - 1 or not repeated:
                    raise
            await asyncio.sleep(retry_delay(attempt))
        raise AssertionError("unreachable")

    async def _send(
        self,
        method: str,
        path: str,
        params: dict[str, str],
        headers: dict[str, str] | None,
        body: dict[str, Any] | None,
    ) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("use the handlers in an async with statement")
        try:
            async with self._session.request(
                method, self._url + path, params=params, headers=headers, json=body, allow_redirects=False
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ServiceApiError(0, "UNREACHABLE", f"{self._url} cannot be reached: {reason}") from error
        found = _decoded(text)
        if response.status >= 300 or found is None:
            view = found or {}
            code, message = view.get("code", "INVALID_ANSWER"), view.get("detail", "")
            raise ServiceApiError(response.status, str(code), f"HTTP status {response.status}: {message}")
        return found


def retry_delay(failures: int) -> float:
    """Return the seconds to wait after a number of failures."""
    longest = min(MAX_RETRY_SECONDS, MIN_RETRY_SECONDS * 2.0 ** min(failures, 20))
    return random.uniform(0.5, 1) * longest  # noqa: S311 - no secret


def _state_query(event: StreamEvent) -> dict[str, str]:
    entity_id = event.data.get("entityId")
    query = {"userId": event.data["userId"]}
    return query if entity_id is None else {**query, "entityId": entity_id}


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
