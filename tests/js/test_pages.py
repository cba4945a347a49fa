"""The pages in headless Chromium, at the widths of a phone and of a desktop, light and dark."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from app.auth.tokens import issue_token
from app.http.routes.pages import PAGES
from config.settings import Settings
from tests.support.devtools import Browser, Page, browser
from tests.support.http import http_client
from tests.support.serving import Serving, external

pytestmark = pytest.mark.timeout(400)  # the browser may have to be downloaded first

WIDTHS = (360, 1280)
LISTED = "document.querySelectorAll('.flow-list:not(.skeleton) li').length >= 3"
SIGN_IN = "document.querySelector('.sign-in')"
BOTH_LIVE = "document.querySelectorAll('.status[data-state=live]').length === 2"
MIN_CONTRAST = 4.5
LOW_CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const known = new Map();
  const rgba = (color) => known.get(color) ?? known.set(color, read(color)).get(color);
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, i) => part * a + below[i] * (1 - a));
  const behind = new Map();
  const backdrop = (element) => {
    if (!element) return rgba('Canvas').slice(0, 3);
    if (!behind.has(element)) {
      const color = rgba(getComputedStyle(element).backgroundColor);
      behind.set(element, over(color, backdrop(element.parentElement)));
    }
    return behind.get(element);
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    if (parseFloat(style.fontSize) === 0 || element.closest('[disabled], noscript, script, style')) continue;
    const below = backdrop(element);
    const levels = [luminance(over(rgba(style.color), below)), luminance(below)].sort((a, b) => b - a);
    const contrast = (levels[0] + 0.05) / (levels[1] + 0.05);
    if (contrast < MIN) found.push(`${contrast.toFixed(2)} ${texts.currentNode.data.trim().slice(0, 40)}`);
  }
  return found;
})()""".replace("MIN", str(MIN_CONTRAST))


@pytest.fixture(scope="module")
def service(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service with the shipped flows."""
    own = servers.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    serving = Serving(env=external(own), cwd=tmp_path_factory.mktemp("service"))
    yield serving
    serving.end()


@pytest.fixture(scope="module")
async def chrome(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A browser."""
    async with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def user() -> str:
    """A user of this test alone."""
    return f"reader-{uuid.uuid4().hex[:8]}"


async def check(
    page: Page, service: Serving, *, token: str | None = None, inline_images: bool = False
) -> None:
    """Check what holds on every page, light and dark, on a phone and on a desktop.

    Nothing is logged, nothing comes from another host, nothing scrolls sideways, text has enough contrast.
    """
    for dark in (False, True):
        await page.prefer(dark=dark)
        for width in WIDTHS:
            await page.resize(width, 900)
            await page.until("document.getAnimations().every(({ playState }) => playState !== 'running')")
            root = "document.documentElement"
            sizes = await page.run(f"[{root}.scrollWidth, {root}.clientWidth]")
            assert sizes[0] <= sizes[1], f"at {width} pixels the page scrolls sideways"
            assert await page.run(LOW_CONTRAST) == [], "dark" if dark else "light"
    assert page.complaints == []
    host = urlsplit(service.url).netloc
    for url in page.requests:
        if url.startswith("blob:") or (inline_images and url.startswith("data:image/")):
            continue
        assert urlsplit(url).netloc == host, url
        assert token is None or token not in url, "a token in an address gets into logs"


async def test_the_first_page(chrome: Browser, service: Serving, user: str) -> None:
    token = service.token(user)
    page = await chrome.page()
    await page.goto(f"{service.url}/#token={token}")
    await page.until(LISTED)
    assert await page.run("location.href") == f"{service.url}/", "the token is out of the address"
    text = await page.run("document.body.innerText")
    assert user in text
    for shown in ("user-onboarding", "5 steps, 5 transitions", "version 0."):
        assert shown in text
    links = await page.run("[...document.links].map((link) => link.getAttribute('href'))")
    flows = [f"#flow={flow}" for flow in ("purchase-approval", "sign-in", "user-onboarding")]
    assert {"/demo", "/docs", "/openapi.json", *flows} <= set(links)
    await check(page, service, token=token)

    await page.click("a[href='#flow=user-onboarding']")
    await page.until("document.querySelector('#diagram img').naturalHeight > 100")
    assert (
        await page.run("document.querySelector('#diagram-title').textContent") == "user-onboarding, version 1"
    )
    await check(page, service, token=token)
    await page.press("Escape")
    await page.until("!document.querySelector('#diagram').open && location.hash === ''")
    assert await page.run("document.activeElement.getAttribute('href')") == "#flow=user-onboarding"


async def test_the_demo(chrome: Browser, service: Serving, user: str) -> None:
    token = service.token(user)
    page = await chrome.page()
    await page.goto(f"{service.url}/demo#token={token}")
    await page.until(BOTH_LIVE)
    await check(page, service, token=token)

    def shows(device: str, title: str) -> str:
        return f"document.querySelector('#{device} h3').textContent === {json.dumps(title)}"

    await page.click("#laptop .screen .primary")
    for device in ("laptop", "phone"):
        await page.until(shows(device, "Welcome"))
    await page.until("document.querySelector('#here').textContent === 'Open on laptop, phone'")
    await page.click("#phone .screen .primary")
    await page.until(shows("laptop", "Your profile"))

    await page.click("#phone .power")
    await page.run("document.querySelector('#laptop-name').value = 'Grace'")
    await page.click("#laptop .screen .primary")
    await page.until(shows("laptop", "Hello, Grace"))
    assert await page.run("document.querySelector('#phone .status').textContent") == "offline"
    await check(page, service, token=token)
    await page.click("#phone .power")
    await page.until(shows("phone", "Hello, Grace"))

    for title in ("Verify it is you", "All done, Grace"):
        await page.click("#phone .screen .primary")
        for device in ("laptop", "phone"):
            await page.until(shows(device, title))
    await page.until("document.querySelectorAll('.timeline li').length === 5")
    await check(page, service, token=token)
    async with service.http(user) as http:
        state = (await http.get("/api/flow/user-onboarding/state")).json()
    assert (state["status"], state["payload"]) == (
        "completed",
        {"name": "Grace", "contact": "Email", "code": "4711"},
    )


@pytest.mark.long
async def test_the_reference(chrome: Browser, service: Serving, user: str) -> None:
    async with http_client(service.url) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    page = await chrome.page()
    await page.goto(f"{service.url}/docs#token={service.token(user)}")
    await page.until(f"document.querySelectorAll('.opblock').length === {sum(map(len, paths.values()))}")
    await check(page, service, inline_images=True)
    await page.click("#operations-States-getUserFlows .opblock-summary-control")
    await page.until("document.querySelector('.try-out__btn')")
    await page.click(".try-out__btn")
    await page.until("document.querySelector('.btn.execute')")
    await page.click(".btn.execute")
    status = "document.querySelector('.live-responses-table tbody .response-col_status')"
    await page.until(f"{status}.textContent.includes('200')")
    await check(page, service, inline_images=True)


@pytest.mark.parametrize("path", ["/", "/demo"])
async def test_without_a_token_nothing_is_asked_of_the_api(
    chrome: Browser, service: Serving, user: str, path: str
) -> None:
    page = await chrome.page()
    await page.goto(f"{service.url}{path}")
    await page.until(SIGN_IN)
    await check(page, service)
    assert [url for url in page.requests if "/api/" in url or "/socket.io" in url] == []
    assert await page.run(
        "[...document.querySelectorAll('.power')].every((button) => !button.checkVisibility())"
    )

    await page.run(f"document.querySelector('#token').value = {json.dumps(service.token(user))}")
    await page.click(".sign-in button")
    await page.until(LISTED if path == "/" else BOTH_LIVE)


@pytest.mark.parametrize("path", ["/", "/demo"])
async def test_an_expired_token_asks_to_sign_in_again(
    chrome: Browser, service: Serving, user: str, path: str
) -> None:
    expired = issue_token(service.secret, user, ttl=timedelta(seconds=-60))
    page = await chrome.page()
    await page.goto(f"{service.url}{path}#token={expired}")
    await page.until(f"{SIGN_IN}.innerText.includes('The token has expired')")


async def test_the_first_page_with_the_keyboard_alone(chrome: Browser, service: Serving, user: str) -> None:
    page = await chrome.page()
    await page.goto(f"{service.url}/#token={service.token(user)}")
    await page.until(LISTED)
    reached = []
    for _ in range(20):
        await page.press("Tab")
        reached.append(await page.run("document.activeElement.getAttribute('href')"))
        style = await page.run("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", f"no visible focus on {reached[-1]}"
        if reached[-1] == "#flow=sign-in":
            break
    assert [href for href in reached if href][:4] == ["#main", "/", "/demo", "/docs"]
    await page.press("Enter")
    await page.until("document.querySelector('#diagram img').naturalHeight > 100")


@pytest.mark.parametrize("path", PAGES)
async def test_headers_of_the_pages(service: Serving, path: str) -> None:
    async with http_client(service.url) as http:
        answer = await http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert rules["default-src"] == "'none'"
        for name in ("script-src", "style-src", "connect-src"):
            assert rules[name] == "'self'"
        assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert "{{" not in answer.text
        again = await http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == answer.headers["cache-control"] == "no-cache"
        assert (await http.post(path)).json()["code"] == "METHOD_NOT_ALLOWED"
