"""A headless Chromium, driven through its DevTools protocol: what a page does, says and asks for."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60


class Browser:
    """One page of a browser. `errors`: what the console and the page said went wrong; `requests`: their addresses."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="deita-browser-")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        options += ["--disable-background-networking", f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen([CHROMIUM, *options], stderr=subprocess.PIPE, text=True)
        port = next(m[1] for line in self._process.stderr if (m := re.search(r"listening on ws://[^:]+:(\d+)/", line)))
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            [page] = [target for target in json.load(answer) if target["type"] == "page"]
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        self._sent = 0
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._process.terminate()
        self._process.wait(SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method, **parameters):
        """The result of a command of the protocol."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(SECONDS))
            if told.get("id") == self._sent:
                return told["result"]
            self._note(told)

    def _note(self, told):
        about = told["params"]
        match told["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(about["exceptionDetails"]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning"):
                self.errors.append(str(about["args"]))

    def open(self, path):
        """Open a file and wait until its script has run."""
        self.visit(Path(path).resolve().as_uri())

    def visit(self, url):
        """Open an address and wait until its page's script has run."""
        self.call("Page.navigate", url=url)
        self.wait("document.documentElement.dataset.ready === '1'")

    def run(self, script):
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return done["result"].get("value")

    def wait(self, condition):
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while self.run(condition) is not True:
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def mouse(self, *points):
        """Press at the first point, move over the others, release at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def look(self, width=1280, height=900, dark=False):
        """A screen of a size, in a light or a dark theme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=theme)

    def screenshot(self):
        """What is on the screen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
