"""The page in a real browser, light and dark, wide and narrow: it signs in, fits, and breaks no rule of its policy."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from millrace.db import Database
from millrace.settings import Settings
from serving.keys import api_key

from .test_page import window

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")


def test_it_signs_in_fits_every_width_and_logs_no_error(client: httpx.Client, settings: Settings, db: Database) -> None:
    from playwright.sync_api import sync_playwright

    for start in range(5):
        db.add_window(window(start, roc_auc_live=0.75, roc_auc_static=0.74, log_loss_live=0.45, log_loss_static=0.47))
    said: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
            page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
            page.goto(str(client.base_url))
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(18, 23, 22)") == (scheme == "dark")
            page.fill("#key", api_key(settings))
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.click("button")
            page.wait_for_selector("#page")
            page.wait_for_load_state("networkidle")
            assert page.locator("svg.chart").count() == 2
            assert page.evaluate("document.documentElement.scrollWidth") == width
            page.evaluate("refresh()")
            page.close()
        chromium.close()
    assert said == []
