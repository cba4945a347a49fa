"""A service that polls, with nothing but an HTTP client: payment_service.py URL KEY LOG POSITION.

It reads its events after the position in the file POSITION, appends them to LOG, and moves the states on that
wait at its step.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


def request(method: str, address: str, body: Any = None, key: str = "") -> Any:
    """Send a request again until it is answered. Returns None for a refusal."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    if key:
        headers["Idempotency-Key"] = key
    data = None if body is None else json.dumps(body).encode()
    while True:
        sent = urllib.request.Request(URL + address, data, headers, method=method)
        try:
            with urllib.request.urlopen(sent, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 and refusal.code != 429:
                print(method, address, refusal.code, refusal.read().decode(), file=sys.stderr, flush=True)
                return None
        except (OSError, ValueError):
            pass  # the service is starting again
        time.sleep(0.05)


def read_events() -> None:
    """Append all new events to the log, then store the position."""
    position = int(POSITION.read_text()) if POSITION.exists() else 0
    while page := request("GET", f"/api/services/payment/events?after={position}&limit=200")["items"]:
        lines = []
        for item in page:
            data = item["event"]["data"]
            event = {
                "id": item["id"],
                "type": item["type"],
                "userId": data["userId"],
                "revision": data["revision"],
            }
            lines.append(json.dumps(event) + "\n")
        with LOG.open("a") as log:
            log.write("".join(lines))
        position = page[-1]["sequence"]
        new = POSITION.with_suffix(".new")
        new.write_text(str(position))
        new.replace(POSITION)


def work() -> int:
    """Move on the states that wait. Returns their number."""
    waiting = request("GET", "/api/services/payment/pending?limit=50")["items"]
    for state in waiting:
        user = urllib.parse.quote(state["userId"], safe="")
        key = f"pay-{state['epoch']}-{state['revision']}"
        paid = {"payload": {"receipt": key}}
        request("POST", f"/api/flow/{state['flow']}/transition/paid?userId={user}", paid, key)
    return len(waiting)


URL, KEY = sys.argv[1:3]
LOG, POSITION = map(Path, sys.argv[3:5])
print("ready", flush=True)
while True:
    read_events()
    if not work():
        time.sleep(0.1)
