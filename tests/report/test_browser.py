"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from efface.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, which is not installed: apt-get install chromium"
)
EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Visit:
    """Opens reports, and keeps what went wrong and what was asked of the network."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.contexts: list[BrowserContext] = []

    def __call__(self, evaluation, fragment="", **options) -> Page:
        address = write_report(evaluation, self.folder / "report").as_uri()
        context = self.browser.new_context(viewport=options.pop("viewport", DESK), **options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address + fragment)
        return page


@pytest.fixture
def visit(browser, tmp_path) -> Iterator[Visit]:
    visit = Visit(browser, tmp_path)
    yield visit
    for context in visit.contexts:
        context.close()
    assert visit.problems == []
    page = (tmp_path / "report" / "report.html").as_uri()
    assert {url.split("#")[0] for url in visit.asked if not url.startswith("data:")} == {page}


def overflowing(page: Page) -> list[str]:
    """What sticks out to the right, but for boxes that scroll by themselves."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body *")]
        .filter((e) => !e.closest(".scroll table, dialog") && e.getBoundingClientRect().right > innerWidth + 0.5)
        .map((e) => e.outerHTML.slice(0, 120))"""
    )


@pytest.mark.parametrize("erasers", [1, 3, 7])
def test_it_renders_and_every_picture_loads(visit, evaluation, erasers):
    page = visit(evaluation(erasers=erasers, error="broken", undecided=1, distances=True))
    assert page.locator("h1").inner_text() == "Did the model forget “cat”?"
    widths = page.evaluate("() => [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 20
    assert set(widths) == {64}
    assert overflowing(page) == []


@pytest.mark.parametrize("evil", EVIL)
def test_foreign_names_are_shown_and_do_nothing(visit, evaluation, evil):
    page = visit(evaluation(concept=evil, guide=evil, error=evil, erasers=2))
    assert evil in page.locator("h1").inner_text()
    assert page.evaluate("() => document.scripts.length") == 1
    assert page.locator("img:not([src^='data:'])").count() == 0


def test_clicking_enlarges_and_keys_lead_on_and_out(visit, evaluation):
    page = visit(evaluation())
    first = page.locator(".tile").first
    small = width(first.locator("img").first)
    first.locator(".open").click()
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert width(dialog.locator("img").first) > 2 * small
    seen = dialog.locator(".caption").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".caption").inner_text() != seen
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # from the first to the last
    assert dialog.locator(".caption").inner_text() == page.locator(".tile .caption").last.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    first.locator(".open").focus()
    page.keyboard.press("Enter")
    assert dialog.locator(".caption").inner_text() == seen
    dialog.locator(".close").click()
    assert not dialog.is_visible()
    assert page.evaluate("() => document.activeElement.closest('.tile').id") == "picture-1"
    first.locator(".open").click()
    dialog.locator("img").first.click()  # clicking the picture again makes it small
    assert not dialog.is_visible()


def test_without_script_the_address_enlarges(visit, evaluation):
    page = visit(evaluation(), java_script_enabled=False)
    tile = page.locator(".tile").first
    small = width(tile.locator("img").first)
    tile.locator(".open").click()
    assert width(tile.locator("img").first) > 2 * small
    tile.locator(".next").click()
    assert page.locator(".tile").nth(1).locator(".close").is_visible()
    page.locator(".tile").nth(1).locator(".close").click()
    assert not page.locator(".close").first.is_visible()


def test_an_address_with_a_picture_opens_it(visit, evaluation):
    page = visit(evaluation(), fragment="#picture-3")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(".steps").nth(2).is_visible()


def test_dark_and_light_differ_and_both_can_be_read(visit, evaluation):
    page = visit(evaluation(erasers=2, error="broken", undecided=1))
    grounds: dict[str, str] = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds[scheme] = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        for selector in ("body", ".faint", ".verdict h2", ".alert", "a", "summary", ".failed .seen", ".of"):
            ink = page.locator(selector).first.evaluate("(e) => getComputedStyle(e).color")
            assert contrast(ink, grounds[scheme]) >= 4.5, (scheme, selector)
    assert grounds["light"] != grounds["dark"]


def test_print_leaves_out_what_only_a_screen_can_use_and_shows_what_is_folded(visit, evaluation):
    page = visit(evaluation(), color_scheme="dark")
    assert page.locator("nav").is_visible()
    assert not page.locator(".provenance").is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".steps").first.is_visible()
    assert page.locator(".provenance").is_visible()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("erasers", [1, 3, 7])
def test_nothing_overflows_a_phone(visit, evaluation, erasers):
    made = evaluation(erasers=erasers, error="x" * 200, undecided=1, distances=True, concept="a" * 60)
    page = visit(made, viewport=PHONE)
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    assert overflowing(page) == []
    page.locator(".open").first.click()
    assert page.evaluate("() => document.querySelector('dialog .card').scrollWidth") <= PHONE["width"]


def width(element: Locator) -> float:
    """How wide an element is drawn."""
    return element.evaluate("(e) => e.getBoundingClientRect().width")


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        r, g, b = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
