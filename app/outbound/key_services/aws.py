"""A key in AWS KMS, with the credentials that boto3 finds (environment, role of the machine or pod)."""

from functools import cached_property
from typing import Any

from app.outbound.key_services.calls import CONNECT_SECONDS, READ_SECONDS, KeyServiceCalls, owner_context

_CHANGED = {"InvalidCiphertextException", "IncorrectKeyException"}
_ARN_REGION = 3


class AwsKmsKey:
    """The WrappingKey port on AWS KMS.

    Args:
        name: The id, ARN or alias of a symmetric key. An ARN names its region too.
    """

    def __init__(self, name: str) -> None:
        self.id = f"awskms:{name}"
        self._name = name
        self._calls = KeyServiceCalls(self.id)

    async def wrap(self, key: bytes, owner: str) -> bytes:
        """Wrap a data key. Raises KeyServiceUnavailableError."""
        answer = await self._calls.in_thread(lambda: self._call("encrypt", owner, Plaintext=key))
        return bytes(answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """Return a data key.

        Raises:
            ValueError: It was changed, or belongs to another owner.
            KeyServiceUnavailableError: The service does not respond, or refuses.
        """
        answer = await self._calls.in_thread(lambda: self._call("decrypt", owner, CiphertextBlob=wrapped))
        return bytes(answer["Plaintext"])

    @cached_property
    def _client(self) -> Any:
        import boto3  # noqa: PLC0415 - an extra, and slow to import
        from botocore.config import Config  # noqa: PLC0415

        region = self._name.split(":")[_ARN_REGION] if self._name.startswith("arn:") else None
        config = Config(
            connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 2}
        )
        return boto3.session.Session().client("kms", region_name=region, config=config)

    def _call(self, operation: str, owner: str, **arguments: bytes) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                KeyId=self._name, EncryptionContext={"server-flow": owner_context(owner)}, **arguments
            )
        except ClientError as refusal:
            code = str(refusal.response.get("Error", {}).get("Code", "unknown"))
            if code in _CHANGED:
                raise ValueError("the wrapped key was changed, or belongs to another owner") from None
            raise self._calls.failed(code) from None
        except BotoCoreError as failure:
            raise self._calls.failed(type(failure).__name__) from None
        return answer
