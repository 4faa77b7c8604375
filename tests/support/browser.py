"""A real headless browser: the system's Chromium. Whatever it complains of, or fetches elsewhere, is a fault."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
QUIET: Final = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
TIMEOUT_MILLISECONDS: Final = 60_000.0  # ms: the machine is busy with images
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SERIOUS: Final = ("serious", "critical")


class BrowserMissing(Exception):
    """This machine has no browser."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium for the block. Raises BrowserMissing."""
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise BrowserMissing("no chromium, chromium-browser or google-chrome on PATH")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", *QUIET]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """A user of the review app at `url`, with one page open; `faults` must be empty at the end."""

    browser: Browser
    url: str
    faults: list[str] = field(default_factory=list)
    expected: list[int] = field(default_factory=list)  # statuses of answers that are no fault

    def __enter__(self) -> "Visitor":
        self._context = self.browser.new_context(viewport=WIDE, color_scheme="dark", reduced_motion="reduce")
        self._context.set_default_timeout(TIMEOUT_MILLISECONDS)
        self.page: Page = self._context.new_page()
        self.page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("request", lambda request: self._note(self._elsewhere(request.url), f"asks for {request.url}"))
        self.page.on("response", self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def press_and_wait(self, *keys: str) -> None:
        """Press a key and wait until another page is loaded."""
        with self.page.expect_navigation():
            self.press(*keys)

    @property
    def path(self) -> str:
        return urlsplit(self.page.url).path

    def examine(self, path: str) -> list[str]:
        """Return a page's accessibility and layout faults, in both themes and at both widths."""
        self.go(path)
        self.page.wait_for_load_state("networkidle")
        found = []
        for scheme in ("dark", "light"):
            for size in (WIDE, NARROW):
                self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
                self.page.set_viewport_size(size)  # type: ignore[arg-type]
                where = f"{path} ({scheme}, {size['width']})"
                found += [f"{where}: {fault}" for fault in self._axe()]
                wide = self.page.evaluate("document.documentElement.scrollWidth")
                if wide > size["width"]:
                    found.append(f"{where}: {wide} pixels wide")
        return found

    def _axe(self) -> list[str]:
        violations = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['html'][:200]}"
            for one in violations
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]

    def _note(self, fault: bool, words: str) -> None:
        if fault and not any(f"status of {status}" in words for status in self.expected):
            self.faults.append(f"{self.page.url}: {words}")

    def _look(self, response: Response) -> None:
        policy = response.headers.get("content-security-policy", "")
        self._note("unsafe" in policy or not policy, f"policy of {response.url}: {policy}")

    def _elsewhere(self, url: str) -> bool:
        parts: Any = urlsplit(url)
        return parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.url
