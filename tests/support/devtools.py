"""A headless Chromium, driven over its DevTools protocol: pages, what they log, request and look like."""

import asyncio
import base64
import itertools
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.javascript import FLAGS, chromium

START_SECONDS = 60
WAIT_SECONDS = 20
MAX_SHOWN_CHARACTERS = 1000
_UNTIL = """new Promise((resolve) => {
  const check = () => {
    let holds = false;
    try { holds = CONDITION; } catch {}
    holds ? resolve() : setTimeout(check, 16);
  };
  check();
})"""
_LISTENING = re.compile(rb"DevTools listening on (ws://\S+)")


class Browser:
    """A connection to a browser; one for all of its pages."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for raw in self._connection:
            message = json.loads(raw)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].on_event(message["method"], message["params"])

    async def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Call a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._connection.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return await asyncio.wait_for(answer, WAIT_SECONDS)

    async def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> "Page":
        """Open an empty page, with storage of its own."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            await page.call(f"{domain}.enable")
        await page.resize(width, height)
        await page.prefer(dark=dark)
        return page

    async def close(self) -> None:
        """Close the connection."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._connection.close()


class Page:
    """A page, with everything that it logged and requested so far."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        """Collect what matters of an event."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            said = [str(part.get("value", part.get("description"))) for part in params["args"]]
            self.complaints.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol on this page."""
        return await self._browser.call(method, self._session, **params)

    async def resize(self, width: int, height: int) -> None:
        """Change the size of the window, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def prefer(self, *, dark: bool) -> None:
        """Change what the reader prefers: dark or light."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def goto(self, url: str) -> None:
        """Navigate to an address; see ``until`` for what to wait for."""
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    async def run(self, expression: str) -> Any:
        """Evaluate an expression, wait for its promise, and return its value."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until a condition holds in the page, which checks it again and again."""
        frames = _UNTIL.replace("CONDITION", condition)
        try:
            await self.run(frames)
        except (TimeoutError, AssertionError) as failure:
            text = str(await self.run("document.body.innerText"))[:MAX_SHOWN_CHARACTERS]
            raise AssertionError(f"not {condition}: {failure}\n{text}\n{self.complaints}") from None

    async def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        where = await self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": where[0], "y": where[1], "button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=kind, **at)

    async def press(self, key: str) -> None:
        """Press a key such as Tab, Enter or Escape."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        named = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Save a picture of the page."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Run a headless browser; ``folder`` is for its data."""
    executable, env = await asyncio.to_thread(chromium)
    process = await asyncio.create_subprocess_exec(
        executable,
        *FLAGS,
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'browser'}",
        env={**os.environ, **env, "HOME": str(folder), "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # it has processes of its own, which end with it
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            found = None
            while found is None:
                line = await process.stderr.readline()
                assert line, "the browser ended at once"
                found = _LISTENING.search(line)
        draining = asyncio.create_task(process.stderr.read())
        async with connect(found[1].decode(), max_size=None, close_timeout=1) as connection:
            opened = Browser(connection)
            try:
                yield opened
            finally:
                await opened.close()
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
