"""The floor: what a person writes by hand for one transition, with the same durability.

JWT check, point read, conditional update, history insert, Redis publish; Starlette on uvloop. No
definitions, no validation, no repeat detection, no delivery after a crash. The filter of its update has an
index of its own, as the embedded database scans otherwise.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SECRET = os.environ["FLOW_JWT_SECRET"]
client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(os.environ["FLOW_MONGO_URL"])
database = client.get_database("bench_floor", write_concern=WriteConcern("majority", j=True))
redis = Redis.from_url(os.environ["FLOW_REDIS_URL"])


async def start(request: Request) -> Response:
    user = jwt.decode(request.headers["authorization"][7:], SECRET, ["HS256"])["sub"]
    state = {"_id": user, "step": "a", "revision": 0, "payload": {}}
    await database.states.replace_one({"_id": user}, state, upsert=True)
    return Response(msgspec.json.encode(state), media_type="application/json")


async def transition(request: Request) -> Response:
    user = jwt.decode(request.headers["authorization"][7:], SECRET, ["HS256"])["sub"]
    body = msgspec.json.decode(await request.body())
    state = await database.states.find_one({"_id": user})
    assert state is not None
    before = state["revision"]
    state["payload"] = {**state["payload"], **body["payload"]}
    state["revision"] = before + 1
    answer = await database.states.update_one(
        {"_id": user, "revision": before},
        {"$set": {"payload": state["payload"], "revision": before + 1, "updatedAt": time.time()}},
    )
    if answer.matched_count != 1:
        return Response(status_code=409)
    record = {"user": user, "revision": before + 1, "payload": body["payload"], "at": time.time()}
    await database.history.insert_one(record)
    event = msgspec.json.encode(state)
    await redis.publish("bench_floor", event)
    return Response(event, media_type="application/json")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await database.states.create_index([("_id", 1), ("revision", 1)])
    yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/api/flow/counter/start", start, methods=["POST"]),
        Route("/api/flow/counter/transition/again", transition, methods=["POST"]),
    ],
)
