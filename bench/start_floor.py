"""The floor of the start: a bare Starlette application on uvicorn."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def alive(_: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


app = Starlette(routes=[Route("/livez", alive), Route("/readyz", alive)])
