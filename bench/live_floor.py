"""The floor of live updates: what a person writes with python-socketio's own Redis manager.

A room a user, and an emit for each transition that one worker takes. No history, no positions, no repair.
"""

import os

import jwt
import msgspec
import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SECRET = os.environ["FLOW_JWT_SECRET"]
manager = socketio.AsyncRedisManager(os.environ["FLOW_REDIS_URL"], channel="bench_floor")
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, transports=["websocket"])


@server.on("connect")  # type: ignore[untyped-decorator]
async def connect(sid: str, _: object, auth: dict[str, str]) -> None:
    await server.enter_room(sid, jwt.decode(auth["token"], SECRET, ["HS256"])["sub"])


async def transition(request: Request) -> Response:
    user = jwt.decode(request.headers["authorization"][7:], SECRET, ["HS256"])["sub"]
    body = msgspec.json.decode(await request.body())
    state = {"flow": "counter", "step": "a", "userId": user, "revision": body["payload"]["n"], **body}
    await server.emit("flow-state-updated", state, room=user)
    return Response(msgspec.json.encode(state), media_type="application/json")


async def ready(_: Request) -> Response:
    return Response()


http = Starlette(
    routes=[
        Route("/api/flow/counter/transition/again", transition, methods=["POST"]),
        Route("/readyz", ready),
    ]
)
app = socketio.ASGIApp(server, other_asgi_app=http)
