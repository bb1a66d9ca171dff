"""The HTML page that `sweep plot -o FILE.html` writes, in a real browser."""

from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.support import browser
from tests.support.launched_store import ZAPS, launched

pytestmark = pytest.mark.skipif(bool(browser.why_not()), reason=browser.why_not())


@pytest.mark.slow
def test_page(tmp_path: Path) -> None:
    """It draws a panel for each facet with no complaint and no network; a legend's button shows one series alone."""
    launched(tmp_path / "store", ZAPS)
    page = tmp_path / "a.html"
    assert main(["plot", "-o", str(page), "--results", str(tmp_path / "store")]) == 0
    with browser.opened(page) as driver:
        assert browser.complaints(driver) == []
        assert len(driver.find_elements("css selector", ".panel svg")) == 3
        assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
        lines = (
            "return [...document.querySelectorAll('.panel svg .mark-line path')].map(p => p.getAttribute('opacity'))"
        )
        (key, *_) = driver.find_elements("css selector", ".key")
        key.click()
        assert key.get_attribute("aria-pressed") == "true"
        assert set(driver.execute_script(lines)) == {"1", "0.15"}
        key.click()
        assert set(driver.execute_script(lines)) == {"1"}
