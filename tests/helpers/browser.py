"""A real browser without a window, for the pages that people open: Debian's chromium, by its own driver."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

__all__ = ["Browser", "browser"]

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
)


class Browser:
    """One browser; a page is opened at a width, light or dark, by its file."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1200, *, dark: bool = False, height: int = 900) -> None:
        scheme = {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        }
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Give what a script gives."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def one(self, selector: str) -> Any:
        """Give the first element that the selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        """Type on the keyboard, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(
            *(getattr(Keys, key, key) for key in keys)
        ).perform()

    def complaints(self) -> list[str]:
        """Give what the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def fits(self) -> bool:
        """Tell whether nothing sticks out to the right."""
        wide: int = self.run(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wide <= 0

    def contrast(self) -> float:
        """Give the contrast of the text and its ground, as WCAG counts it: 4.5 is enough."""
        colours = self.run(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    def picture(self, file: Path) -> None:
        """Save what is seen."""
        self.driver.save_screenshot(str(file))


def _luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start one; skips the test where there is none."""
    names = shutil.which("chromium"), shutil.which("chromedriver")
    if None in names:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(names[0])
    for option in _OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
            patch.delenv(name)  # the driver is spoken to over HTTP, on this machine
        driver = webdriver.Chrome(options=options, service=Service(str(names[1])))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
