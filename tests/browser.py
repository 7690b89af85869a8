"""Headless Chromium for tests of the page, over WebDriver: JSON over HTTP, so nothing is installed
for it but Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``).
"""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Right": "\ue014", "Home": "\ue011"}
_CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WAIT = """
const [condition, ms, done] = [new Function(arguments[0]), arguments[1], arguments[2]];
const end = performance.now() + ms;
const look = () => {
  let value = null;
  try { value = condition(); } catch { /* not there yet */ }
  if (value || performance.now() > end) done(value || null);
  else setTimeout(look, 15);
};
look();
"""


def needs_chromium() -> None:
    """Skip the test, visibly, where there is no Chromium."""
    if not shutil.which("chromedriver") or not any(map(shutil.which, _CHROMES)):
        pytest.skip("no Chromium here (Debian: apt-get install chromium chromium-driver)")


class Browser:
    """One window of Chromium; close it with ``with``."""

    def __init__(self, folder: Path, *, width: int = 1400, height: int = 900) -> None:
        needs_chromium()
        words = ["chromedriver", "--port=0"]
        # It keeps its own things in a folder that goes with the test.
        env = {**os.environ, "TMPDIR": str(folder), "HOME": str(folder)}
        self._driver = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        port = None
        for line in self._driver.stdout:
            port = re.search(r"successfully on port (\d+)", line)
            if port:
                break
        assert port, "chromedriver ended"
        self._root = f"http://127.0.0.1:{port[1]}"
        options = {
            "binary": next(filter(None, map(shutil.which, _CHROMES))),
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                f"--user-data-dir={folder / 'chromium'}",
                f"--window-size={width},{height}",
            ],
        }
        asked = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        begun = self._post("/session", {"capabilities": {"alwaysMatch": asked}})
        self._session = f"/session/{begun['sessionId']}"
        self._post(f"{self._session}/timeouts", {"script": 60_000})

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._send("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(30)
            self._driver.stdout.close()

    def open(self, url: str) -> None:
        self._post(f"{self._session}/url", {"url": url})

    def reload(self) -> None:
        self._post(f"{self._session}/refresh", {})

    @property
    def url(self) -> str:
        return self._send("GET", f"{self._session}/url")

    def run(self, script: str, *values: Any) -> Any:
        """What a script returns."""
        return self._post(f"{self._session}/execute/sync", {"script": script, "args": values})

    def wait(self, condition: str, what: str = "", seconds: float = 30) -> Any:
        """What a script returns, once that is something."""
        asked = {"script": _WAIT, "args": [f"return {condition}", 1000 * seconds]}
        found = self._post(f"{self._session}/execute/async", asked)
        assert found, f"waited {seconds} s for {what or condition}; {self.errors()}"
        return found

    def press(self, *keys: str) -> None:
        """Press and let go of keys, one after the other; a name of KEYS is one key."""
        actions = []
        for key in keys:
            for letter in [KEYS[key]] if key in KEYS else key:
                actions += [{"type": kind, "value": letter} for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self._post(f"{self._session}/actions", {"actions": [keyboard]})

    def click(self, selector: str, x: int = 0, y: int = 0) -> None:
        """Click an element, so far from its middle."""
        script = "return document.querySelector(arguments[0])"
        element = self.run(script, selector)
        move = {"type": "pointerMove", "origin": element, "x": x, "y": y, "duration": 0}
        actions = [move, *({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))]
        mouse = {"type": "pointer", "id": "mouse", "actions": actions}
        self._post(f"{self._session}/actions", {"actions": [mouse]})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", f"{self._session}/screenshot")))

    def errors(self) -> list[str]:
        """What the browser's console was told since the last time."""
        lines = self._post(f"{self._session}/se/log", {"type": "browser"})
        # Chromium warns of reading a canvas often, which only these tests do.
        told = [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]
        return [line for line in told if "willReadFrequently" not in line]

    def _post(self, address: str, body: dict[str, Any]) -> Any:
        return self._send("POST", address, json.dumps(body).encode())

    def _send(self, method: str, address: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._root + address, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None
