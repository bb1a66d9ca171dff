"""A real Chromium without a window: opens a page from disk, and tells what its console says."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDE, NARROW = (1200, 1000), (390, 844)
PATIENCE_S = 60.0


def why_not() -> str:
    """Why no browser can be driven here; empty if one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed (scripts/system-packages installs both)" if missing else ""


@contextmanager
def opened(page: Path, size: tuple[int, int] = WIDE, *, dark: bool = False) -> Iterator[Any]:
    """A selenium driver that shows a page, after all its pictures were drawn."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    arguments += ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium refuses to run as root with its sandbox
    for argument in (*arguments, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(page.absolute().as_uri())
        undrawn = "return document.querySelectorAll('.panel:not([data-drawn])').length"
        WebDriverWait(driver, PATIENCE_S).until(lambda found: found.execute_script(undrawn) == 0)
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[str]:
    """Errors and warnings on the console."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def screenshot(driver: Any) -> bytes:
    """The whole page as PNG."""
    from base64 import b64decode

    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return b64decode(shot["data"])


def printed(driver: Any) -> bytes:
    """The page as it would be printed: a PDF on A4."""
    from base64 import b64decode

    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
    return b64decode(driver.execute_cdp_cmd("Page.printToPDF", paper)["data"])
