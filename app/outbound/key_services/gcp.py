"""A key in Google Cloud KMS, over its HTTP API, with the credentials that google-auth finds."""

from base64 import b64encode
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from app.outbound.key_services.calls import CONNECT_SECONDS, READ_SECONDS, KeyServiceCalls, owner_context

API = "https://cloudkms.googleapis.com/v1"
_SCOPE = "https://www.googleapis.com/auth/cloudkms"
_BAD_REQUEST, _OK = 400, 200


def authorized_session() -> Any:
    """Return a session of ``requests`` with the credentials of the environment."""
    import google.auth  # noqa: PLC0415 - an extra, and slow to import
    from google.auth.transport.requests import AuthorizedSession  # noqa: PLC0415

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


class GcpKmsKey:
    """The WrappingKey port on Google Cloud KMS.

    Args:
        name: The resource name of a symmetric key.
        api: The address of the API.
        open_session: Creates the session of the requests.
    """

    def __init__(
        self, name: str, api: str = API, open_session: Callable[[], Any] = authorized_session
    ) -> None:
        self.id = f"gcpkms:{name}"
        self._url = f"{api}/{name}"
        self._open_session = open_session
        self._calls = KeyServiceCalls(self.id)

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key. Raises KeyServiceUnavailableError."""
        return await self._calls.in_thread(lambda: self._call("encrypt", "plaintext", key, owner))

    async def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """Return a data key.

        Raises:
            ValueError: It was changed, or belongs to another owner.
            KeyServiceUnavailableError: The service does not respond, or refuses.
        """
        return await self._calls.in_thread(lambda: self._call("decrypt", "ciphertext", wrapped, owner))

    @cached_property
    def _session(self) -> Any:
        return self._open_session()

    def _call(self, operation: str, member: str, value: bytes, owner: str) -> bytes:
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415

        body = {
            member: b64encode(value).decode(),
            "additionalAuthenticatedData": b64encode(owner_context(owner).encode()).decode(),
        }
        try:
            timeout = (CONNECT_SECONDS, READ_SECONDS)
            answer = self._session.post(f"{self._url}:{operation}", json=body, timeout=timeout)
        except (RequestException, GoogleAuthError) as failure:
            raise self._calls.failed(type(failure).__name__) from None
        # Other refusals with status 400 are about the key, such as FAILED_PRECONDITION: it is disabled.
        is_decryption = operation == "decrypt" and answer.status_code == _BAD_REQUEST
        if is_decryption and '"INVALID_ARGUMENT"' in answer.text:
            raise ValueError("the wrapped key was changed, or belongs to another owner")
        if answer.status_code != _OK:
            raise self._calls.failed(f"status {answer.status_code}")
        try:
            found = msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise self._calls.failed("an unreadable answer") from None
        return self._calls.decoded(found.get("ciphertext" if operation == "encrypt" else "plaintext"))
