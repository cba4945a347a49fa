"""A service on a Redis stream, with nothing but a Redis and an HTTP client.

notification_service.py REDIS_URL STREAM GROUP URL KEY LOG: it reads the events of its consumer group, appends
each to LOG, moves states on that enter its step, and acknowledges.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError


def transition(data: Any, event_id: str) -> None:
    """Run the transition again until it is answered; a refusal is an answer."""
    user = urllib.parse.quote(data["userId"], safe="")
    address = f"{URL}/api/flow/{data['flowId']}/transition/sent?userId={user}"
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Idempotency-Key": event_id,
    }
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, b"{}", headers), timeout=10):
                return
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 and refusal.code != 429:
                return
        except OSError:
            pass  # the service is starting again
        time.sleep(0.05)


def handle(fields: dict[bytes, bytes]) -> None:
    """Handle one entry of the stream."""
    event = json.loads(fields[b"event"])
    data = event["data"]
    seen = {"id": event["id"], "type": event["type"], "userId": data["userId"], "revision": data["revision"]}
    with LOG.open("a") as log:
        log.write(json.dumps(seen) + "\n")
    if event["type"] == "flow.step.entered" and data["step"] == "notify":
        transition(data, event["id"])


REDIS_URL, STREAM, GROUP, URL, KEY = sys.argv[1:6]
LOG = Path(sys.argv[6])
redis = Redis.from_url(REDIS_URL)
print("ready", flush=True)
start = "0"  # first what a process before this one read and did not acknowledge
while True:
    try:
        answer: Any = redis.xreadgroup(GROUP, "only", {STREAM: start}, count=20, block=500)
        entries = answer[0][1] if answer else []
        if not entries:
            start = ">"
        for entry, fields in entries:
            handle(fields)
            redis.xack(STREAM, GROUP, entry)
    except RedisError:
        time.sleep(0.1)
