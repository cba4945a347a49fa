"""Endpoints: the request and the answers of a route, declared once for serving and for OpenAPI."""

import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.auth.policy import Access, named_user, require_access
from app.auth.schemes import credential_in
from app.auth.tokens import TokenVerifier
from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.errors import (
    AuthenticationRequiredError,
    Fault,
    FlowError,
    InvalidRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from app.contracts.positions import ExpectedPosition
from app.flow.values.storable_json import NUMBER_RULE
from app.flow.values.struct_errors import faults_of, surrogate_faults
from app.http.entity_tags import EntityTags, entity_tags, foreign_tag_error
from app.http.event_stream import EventStreamResponse
from app.http.problems import log_with_request
from app.http.query import QueryDecoder
from app.kit.client_address import client_address
from app.kit.integers import convert_json
from app.services import FlowService
from app.services.rates.admission import Admission

BODY_ALLOWANCE_BYTES = 16_384
"""Bytes of a body in addition to its payload."""
MAX_DEFINITION_BYTES = 524_288
MAX_BATCH_BYTES = 8_388_608
_STATE_TAG = re.compile(r"(?:(?P<epoch>[0-9a-zA-Z-]{1,64})\.)?(?P<revision>[0-9]{1,15})\Z")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")

RequestHeader = Literal["If-Match", "Idempotency-Key", "Last-Event-ID"]
CONDITIONAL: tuple[RequestHeader, ...] = ("If-Match", "Idempotency-Key")
"""The headers that ``Call.origin`` reads."""


class NoQuery(Struct, frozen=True):
    """The query of a route without parameters."""


class UserQuery(Struct, frozen=True, rename="camel"):
    """The owner of the state: the caller's own, or for services and administrators another user's."""

    user_id: str | None = None


class StateQuery(UserQuery, frozen=True, rename="camel"):
    """The owner of the state, and its entity if a user has many states in the flow.

    Participants name the owner with their own token. Without ``entityId``: the state without an entity, or
    else the only one.
    """

    entity_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class Endpoint(Struct, frozen=True, kw_only=True):
    """The declaration of a route: its request and its answers.

    Attributes:
        access: The callers that the route is for.
        answers: Types by status, None for an empty answer, a tuple for one of several types. With 304 among
            them ``If-None-Match`` is evaluated, and the ETag ends with a digest of the body.
        body: The type of the body, None if the route has none.
        body_of: The kind of the body, which bounds its size.
        described_body: The type of the body for the OpenAPI document, if ``body`` accepts anything, so that
            all faults are found later.
        request_headers: The headers of a request that are used.
        answer_headers: Headers of successful answers; ``Location`` only with 201.
        other_media_types: Types by the media types of answers that the query can request.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    name: str
    access: Access
    summary: str
    handle: Callable[["Call"], Awaitable["Answer"]]
    answers: Mapping[int, Any]
    errors: tuple[type[FlowError], ...] = ()
    query: type[Struct] = NoQuery
    body: Any = None
    body_of: Literal["state", "definition", "batch"] = "state"
    described_body: Any = None
    request_headers: tuple[RequestHeader, ...] = ()
    answer_headers: tuple[str, ...] = ()
    media_type: str = "application/json"
    other_media_types: Mapping[str, Any] = {}


class BodyLimits(Struct, frozen=True):
    """Bytes of a body, by its kind."""

    state: int
    definition: int = MAX_DEFINITION_BYTES
    batch: int = MAX_BATCH_BYTES


class Answer(Struct, frozen=True):
    """An answer: a status, a value to encode (UNSET: an empty body) and headers; or a whole response."""

    value: Any = UNSET
    status: int = 200
    headers: dict[str, str] = {}


class Call:
    """One request at an endpoint: decoded, authenticated and authorised on demand."""

    def __init__(
        self,
        request: Request,
        service: FlowService,
        verifier: TokenVerifier,
        caller: Caller,
        query: Any,
        body: Any,
    ) -> None:
        self.service = service
        self.verifier = verifier
        self.caller = caller
        self.query = query
        self.body = body
        self.path: dict[str, str] = request.path_params
        self.address = client_address(request.scope)
        self._headers = request.headers

    @property
    def user_id(self) -> str:
        """The user whose states the request lists."""
        return named_user(self.caller, self.query.user_id)

    @property
    def owner_id(self) -> str:
        """The owner of the state that the request names; the service decides who may see it."""
        named: str | None = self.query.user_id
        return self.caller.user_id if named is None else named

    def header(self, name: str) -> str | None:
        """Return a header of the request."""
        return self._headers.get(name)

    @property
    def if_match(self) -> EntityTags | None:
        """The entity tags of ``If-Match``."""
        return entity_tags("If-Match", self._headers.getlist("if-match"))

    @property
    def expected(self) -> tuple[ExpectedPosition, ...] | None:
        """The positions in ``If-Match``; an empty tuple if there are only weak tags, which match nothing."""
        tags = self.if_match
        if tags is None:
            return None
        if tags.any:
            return (ExpectedPosition(None),)
        found = [match for tag in tags.strong if (match := _STATE_TAG.match(tag))]
        if len(tags.strong) == 1 and not found and not tags.weak:
            raise foreign_tag_error("If-Match", '"<epoch>.<revision>"')
        return tuple(ExpectedPosition(int(match["revision"]), match["epoch"]) for match in found)

    @property
    def origin(self) -> Origin:
        """The origin of the command."""
        request_id: str | UnsetType = UNSET
        given = self._headers.get("idempotency-key")
        if given is not None:
            if not _REQUEST_ID.match(given):
                raise InvalidRequestError(
                    [Fault("/Idempotency-Key", "must be 1 to 128 visible ASCII characters")]
                )
            request_id = given
        return Origin(
            self.caller,
            request_id=request_id,
            client="http",
            expected=self.expected,
        )


class Handler:
    """An endpoint as a handler of Starlette."""

    def __init__(
        self, endpoint: Endpoint, service: FlowService, verifier: TokenVerifier, limits: BodyLimits
    ) -> None:
        self._endpoint = endpoint
        self._service = service
        self._verifier = verifier
        self._admission = Admission(service.clients.requests, verifier)
        self._limit: int = getattr(limits, endpoint.body_of)
        self._query = QueryDecoder(endpoint.query)
        self._decoder = msgspec.json.Decoder(endpoint.body) if endpoint.body is not None else None

    async def __call__(self, request: Request) -> Response:
        """Authenticate, decode, handle and encode a request."""
        endpoint = self._endpoint
        caller = Caller(user_id="", scopes=frozenset())
        if not endpoint.access.is_public:
            caller = await self._admission.admit(_credential(request), client_address(request.scope))
            log_with_request(request, user=caller.user_id)
        require_access(endpoint.access, caller)
        raw = await _read_body(request, self._limit)
        faults: list[Fault] = []
        query = self._query.decode(request, faults)
        body = self._decode_body(raw, faults)
        if faults:
            raise InvalidRequestError(faults)
        if request.method == "HEAD" and endpoint.media_type == "text/event-stream":
            return Response(media_type=endpoint.media_type)  # HEAD must not open an endless stream
        call = Call(request, self._service, self._verifier, caller, query, body)
        if endpoint.media_type == "text/event-stream":
            return await self._open_stream(call)
        answer = await endpoint.handle(call)
        if isinstance(answer.value, Response):
            return answer.value
        if answer.value is UNSET:
            return Response(status_code=answer.status, headers=answer.headers)
        body, headers = msgspec.json.encode(answer.value), answer.headers
        if 304 in endpoint.answers:
            digest = blake2b(body, digest_size=12).hexdigest()
            named = [headers["ETag"].strip('"')] if "ETag" in headers else []
            headers = {**headers, "ETag": f'"{".".join([*named, digest])}"'}
            if is_known_etag(headers["ETag"], request.headers.get("if-none-match", "")):
                return Response(status_code=304, headers=headers)
        return Response(body, status_code=answer.status, headers=headers, media_type=endpoint.media_type)

    async def _open_stream(self, call: Call) -> Response:
        """Return an answer that counts as a connection of its caller while it lasts."""
        connection = self._service.clients.connections.open(call.caller, call.address)
        try:
            response: EventStreamResponse = (await self._endpoint.handle(call)).value
        except BaseException:
            connection.close()
            raise
        response.on_end = connection.close
        return response

    def _decode_body(self, raw: bytes, faults: list[Fault]) -> Any:
        if self._decoder is None:
            if raw.strip():
                faults.append(Fault("", "must be empty: this route has no body"))
            return None
        try:
            return self._decoder.decode(raw.strip() or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            body, found = _decode_again(raw, self._endpoint.body)
            faults += found
            return body


def is_known_etag(etag: str, listed: str) -> bool:
    """Return true if an ``If-None-Match`` lists the ETag, by the weak comparison of RFC 9110."""
    tags = {tag.strip().removeprefix("W/") for tag in listed.split(",")}
    return etag in tags or "*" in tags


def _credential(request: Request) -> str | None:
    """Return the credential of a request. Two of them are refused: a proxy may have checked the other one."""
    given = request.headers.getlist("authorization")
    if len(given) > 1:
        raise AuthenticationRequiredError("The request has several Authorization headers", reason="format")
    return credential_in(given[0]) if given else None


async def _read_body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise PayloadTooLargeError("body", limit)
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                raise PayloadTooLargeError("body", limit)
    except ClientDisconnect:  # it disconnected, or its connection ended because it was late
        raise RequestTimeoutError from None
    return bytes(raw)


def _decode_again(raw: bytes, shape: Any) -> tuple[Any, list[Fault]]:
    """Decode a body with integers such as 1.0, or return its faults."""
    try:
        value = msgspec.json.decode(raw.strip() or b"{}")
    except UnicodeDecodeError:
        return None, [Fault("", "the body is not UTF-8; encode it as UTF-8")]
    except RecursionError:
        return None, [Fault("", "the body is nested too deeply")]
    except msgspec.ValidationError:  # an integer with too many digits for a double
        return None, [Fault("", f"a number is too large: {NUMBER_RULE}")]
    except msgspec.DecodeError as refusal:
        return None, surrogate_faults(raw) or [Fault("", f"the body is not JSON: {refusal}")]
    try:
        return convert_json(value, shape), []
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        return None, faults_of(value, shape)
