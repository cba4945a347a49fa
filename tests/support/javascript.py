"""Support for tests of the JavaScript client: Node, npm's packages, a browser, and a server that hands out
the page, makes tokens and takes the results."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app.auth.tokens import issue_token

FOLDER = Path(__file__).parents[1] / "js"
MODULES = FOLDER / "node_modules"
BIN = Path(sys.executable).parent
INSTALL_SECONDS = 240

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
UNPACK = """
import chromium, { inflate } from '@sparticuz/chromium';
await chromium.executablePath();
await inflate(new URL('../bin/al2023.tar.br', import.meta.resolve('@sparticuz/chromium')).pathname);
"""
_FONTS = """<?xml version="1.0"?>
<fontconfig><dir>{folder}/fonts/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""
"""The configuration that comes with it names folders of another machine, and without any font it crashes."""

Results = list[Any]


def node(*arguments: str) -> list[str]:
    """The command that runs Node."""
    # The client is an ES module in the folder of a Python package, which no package.json says.
    return [str(BIN / "node"), "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", *arguments]


def run(command: list[str], seconds: float = 100, **env: str) -> str:
    """Run a command in ``tests/js``; its output. It fails with all that it printed."""
    done = subprocess.run(
        command,
        check=False,
        cwd=FOLDER,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    said = f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    return done.stdout


def modules(folder: Path = FOLDER) -> Path:
    """npm's packages, installed when they are not there, or not those of the ``package.json`` of a folder."""
    wanted = (folder / "package.json").read_text()
    installed = folder / "node_modules" / ".installed"
    with _alone():
        if not installed.is_file() or installed.read_text() != wanted:
            npm = [str(BIN / "npm"), "--prefix", str(folder), "install"]
            path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
            run([*npm, "--no-package-lock", "--no-audit", "--no-fund"], INSTALL_SECONDS, PATH=path)
            installed.write_text(wanted)
    return installed.parent


def chromium() -> tuple[str, dict[str, str]]:
    """A browser that is here, or the one of npm: its executable, and what its environment needs."""
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if named:
        return named, {}
    folder = modules() / ".chromium-with-fonts"
    with _alone():
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            run(node("--input-type=module", "--eval", UNPACK), TMPDIR=str(partial))
            (partial / "own-fonts.conf").write_text(_FONTS.format(folder=folder))
            partial.rename(folder)
    libraries = [str(folder / "al2023" / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return str(folder / "chromium"), {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "FONTCONFIG_FILE": str(folder / "own-fonts.conf"),
    }


@contextmanager
def browsing(url: str, folder: Path) -> Iterator[Path]:
    """A headless browser that has a page open; the file that it writes its messages to. ``folder`` is for
    its data."""
    executable, env = chromium()
    said = folder / "browser.log"
    command = [executable, *FLAGS, f"--user-data-dir={folder / 'browser'}", url]
    with said.open("w") as out:
        browser = subprocess.Popen(
            command,
            env={**os.environ, **env, "HOME": str(folder), "TMPDIR": str(folder)},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it has processes of its own, which end with it
        )
    try:
        yield said
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


@contextmanager
def _alone() -> Iterator[None]:
    """No other process of the tests installs at the same time."""
    MODULES.mkdir(exist_ok=True)
    with (MODULES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Helper:
    """Serves ``tests/js`` and ``pages``, makes tokens (``/token?user=&scope=&ttl=``) and takes results
    (``/results``)."""

    def __init__(self, secret: str) -> None:
        self._results: Queue[Results] = Queue()
        self.pages: dict[str, str] = {}
        results, pages = self._results, self.pages

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(FOLDER))

            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path in pages:
                    return self._answer(pages[address.path].encode(), "text/html")
                if address.path != "/token":
                    return super().do_GET()
                asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                ttl = timedelta(seconds=float(asked["ttl"]))
                token = issue_token(secret, asked["user"], ttl=ttl, scopes=asked.get("scope", "").split())
                return self._answer(token.encode())

            def do_POST(self) -> None:
                results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")

            def _answer(self, body: bytes, media_type: str = "text/plain") -> None:
                self.send_response(200)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def results(self, seconds: float, said: Path) -> Results:
        """Return the results that the page reported."""
        try:
            return self._results.get(timeout=seconds)
        except Empty:
            raise AssertionError(f"no results from the browser:\n{said.read_text()}") from None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
