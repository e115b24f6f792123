"""The client's status page in Chromium: what it shows, light and dark, wide and narrow; and its new identity."""

import base64
import json
import time
import urllib.parse
import urllib.request
from typing import Callable

from cases.h_browser import DIRECT, Browser, browser
from harness import Client, Site, case, end, names
from inside_settings import PASSWORD

WIDE, NARROW, HEIGHT = 1000, 360, 900
# Long enough for a graph that has something to show, at a rate that slow machines keep too.
SECONDS = 10
RATE = 3_000_000


def wait_for(site: Site, what: str, condition: Callable[[], bool]) -> None:
    while not condition():
        assert site.seconds_left > 5, f"waited in vain until {what}"
        time.sleep(0.1)


def circuits(client: Client) -> list[dict]:
    credentials = base64.b64encode(f"any:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(f"http://{client.page}/api/v1/circuits", headers={"Authorization": f"Basic {credentials}"})
    with DIRECT.open(request, timeout=10) as answer:
        return json.load(answer)["circuits"]["shown"]


def picture(site: Site, session: Browser, name: str, scheme: str, width: int) -> None:
    """The whole page as a person with this scheme and window sees it; nothing may stand out at the side."""
    session.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    session.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=HEIGHT, deviceScaleFactor=1, mobile=False
    )
    dark = session.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark"), f"the browser is not {scheme}"
    over = session.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over == 0, f"{name}: {over} pixels too wide"
    shot = session.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
    (site.artefacts / f"{name}.png").write_bytes(base64.b64decode(shot))


def background(session: Browser) -> str:
    return session.run("return getComputedStyle(document.body).backgroundColor")


@case("Chromium and curl, a status page with a password", "chromium", "chromedriver", "curl", seconds=90)
def password(site: Site) -> None:
    client = site.clients["password"]
    page = client.page
    for user, status in ((None, "401"), ("any:wrong", "401"), (f"any:{PASSWORD}", "200")):
        words = ["--user", user] if user else []
        told = site.run("curl", "--silent", "--noproxy", "*", "--include", *words, f"http://{page}/").stdout.decode()
        assert told.split()[1] == status, told
        assert ("name=\"token\"" in told) == (status == "200"), told
    with browser(site, "password", f"socks5://{site.socks}") as session:
        session.open(f"http://any:{urllib.parse.quote(PASSWORD)}@{page}/")
        refreshes = "return Number(document.documentElement.dataset.refreshes || 0)"
        wait_for(site, "the page has refreshed itself", lambda: session.run(refreshes) >= 2)
        assert session.run("return document.getElementById('lost').hidden"), "it says that the client does not answer"
        old = {circuit["id"] for circuit in circuits(client)}
        press_new_identity(session)
        wait_for(site, "its circuits have ended", lambda: not old & {circuit["id"] for circuit in circuits(client)})
        assert (complaints := session.complaints()) == [], complaints


@case("Chromium, the status page", "chromium", "chromedriver", "curl", seconds=120)
def status_page(site: Site) -> str:
    url = f"http://{names.WEB}/bytes/{60 * RATE}"
    download = site.start(
        "curl", "--silent", "--proxy", f"socks5h://{site.socks}", "--limit-rate", RATE, "--output", "/dev/null", url
    )
    try:
        with browser(site, "status", f"socks5://{site.socks}") as session:
            return drive(site, session, download)
    finally:
        end(download)


def drive(site: Site, session: Browser, download) -> str:
    session.open(f"http://{site.client.page}/")
    refreshes = "return Number(document.documentElement.dataset.refreshes || 0)"
    wait_for(site, "the page has followed a download for a while", lambda: session.run(refreshes) >= SECONDS)
    assert session.run("return document.getElementById('lost').hidden"), "it says that the client does not answer"
    text = session.text()
    assert "Connected" in text and "in use" in text and "not working" not in text.lower(), text
    # Every circuit that is built has a row of three relays, in their order.
    rows = session.run(
        "return [...document.querySelectorAll('.circuits > li')].filter(row => !row.querySelector('.building'))"
        ".map(row => [...row.querySelectorAll('.hops .relay')].map(relay => relay.textContent))"
    )
    assert rows and all(len(set(row)) == 3 for row in rows), rows
    assert names.WEB not in text, "it tells where streams lead"
    picture(site, session, "status-light", "light", WIDE)
    light = background(session)
    picture(site, session, "status-dark", "dark", WIDE)
    assert background(session) != light, "dark is as light"
    picture(site, session, "status-narrow", "light", NARROW)
    old = {circuit["id"] for circuit in circuits(site.client)}
    press_new_identity(session)
    wait_for(site, "the download has ended", lambda: download.poll() is not None)
    assert download.returncode != 0, "the download went on to its end"
    wait_for(site, "there are other circuits", lambda: circuits(site.client) != [])
    new = {circuit["id"] for circuit in circuits(site.client)}
    assert not old & new, f"{old & new} are still there"
    wait_for(site, "the page shows them", lambda: any(f"Circuit {number} " in session.text() for number in new))
    assert (complaints := session.complaints()) == [], complaints
    return f"{len(rows)} circuits; {len(old)} ended by its button"


def press_new_identity(session: Browser) -> None:
    (button,) = session.ask("POST", "/element", {"using": "css selector", "value": "form button"}).values()
    session.ask("POST", f"/element/{button}/click", {})
