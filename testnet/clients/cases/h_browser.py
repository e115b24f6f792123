"""Chromium, driven by WebDriver (https://www.w3.org/TR/webdriver2/)."""

import base64
import contextlib
import json
import pathlib
import re
import time
import urllib.request
from typing import Iterator

from harness import Site, case, end, names

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=900,700",
]  # fmt: skip
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One session."""

    def __init__(self, driver: str, flags: list[str]):
        options = {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        self._url = driver
        self._session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def ask(self, method: str, path: str, body: dict | None = None):
        where = f"/session/{self._session}" if self._session else ""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + where + path, data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self.ask("POST", "/url", {"url": url})

    @property
    def title(self) -> str:
        return self.ask("GET", "/title")

    def run(self, script: str):
        """What a script in the page returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, **parameters):
        """A command of the Chrome DevTools protocol, for what WebDriver has none."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def complaints(self) -> list[str]:
        """What the console has that is no mere remark: scripts that fail, content that the page forbids itself."""
        log = self.ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]

    def text(self) -> str:
        return self.run("return document.body.innerText")

    def screenshot(self, file: pathlib.Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def quit(self) -> None:
        self.ask("DELETE", "")


@contextlib.contextmanager
def browser(site: Site, name: str, proxy: str, flag: str = "--proxy-server") -> Iterator[Browser]:
    """A browser with an empty profile, told about the port with this flag."""
    log = site.scratch / f"{name}.log"
    with open(log, "w") as out:
        driver = site.start("chromedriver", "--port=0", stdout=out, stderr=out)
    try:
        while not (found := re.search(r"started successfully on port (\d+)", log.read_text())):
            assert driver.poll() is None and site.seconds_left > 1, log.read_text()
            time.sleep(0.05)
        profile = site.scratch / f"{name}-profile"
        flags = [*FLAGS, f"--user-data-dir={profile}", f"{flag}={proxy}"]
        session = Browser(f"http://127.0.0.1:{found[1]}", flags)
        yield session
        session.quit()
    finally:
        end(driver)


def load_page(site: Site, kind: str, proxy: str, flag: str = "--proxy-server") -> str:
    with browser(site, kind, proxy, flag) as session:
        started = time.monotonic()
        session.open(f"http://{names.WEB}/")
        while "loaded" not in session.title:
            assert site.seconds_left > 1, f"the page did not finish: {session.title}"
            time.sleep(0.05)
        seconds = time.monotonic() - started
        session.screenshot(site.artefacts / f"page-{kind}.png")
        assert session.title == "60 loaded, 0 failed", session.title
        return f"60 resources in {seconds:.1f} s"


@case("Chromium, a page with 60 resources, SOCKS5", "chromium", "chromedriver", seconds=90)
def page_over_socks(site: Site) -> str:
    return load_page(site, "socks5", f"socks5://{site.socks}")


@case("Chromium, the same, HTTP proxy", "chromium", "chromedriver", seconds=90)
def page_over_http(site: Site) -> str:
    return load_page(site, "http", f"http://{site.socks}")


@case("Chromium, the same, by /proxy.pac", "chromium", "chromedriver", seconds=90)
def page_by_script(site: Site) -> str:
    return load_page(site, "pac", f"http://{site.socks}/proxy.pac", "--proxy-pac-url")


ASK_ANOTHER_SITE = """
fetch("http://%s/asked-by", {method: "POST", body: "x"}).then(answer => answer.text())
  .then(text => document.title = "asked by " + text, error => document.title = "asked in vain: " + error)
"""


@case("Chromium, a page that asks another site, HTTP proxy and SOCKS5", "chromium", "chromedriver", seconds=90)
def other_site(site: Site) -> None:
    """Its browser says from where it asks (`Origin`), and the port passes that on: it is the other site's to judge."""
    for kind in ("http", "socks5"):
        with browser(site, f"other-{kind}", f"{kind}://{site.socks}") as session:
            session.open(f"http://{names.WEB}/nothing-else")
            session.run(ASK_ANOTHER_SITE % names.OTHER)
            while "asked" not in session.title:
                assert site.seconds_left > 1, f"no answer: {session.title}"
                time.sleep(0.05)
            assert session.title == f"asked by http://{names.WEB}", session.title


@case("Chromium, the port's own page", "chromium", "chromedriver", seconds=90)
def own_page(site: Site) -> None:
    """Browsers go to addresses of their own machine without the proxy."""
    with browser(site, "own", f"socks5://{site.socks}") as session:
        session.open(f"http://{site.socks}/")
        session.screenshot(site.artefacts / "port.png")
        assert session.title == "Tunic" and "Tunic’s port" in session.text()
