"""The pages in a real browser: no error, nothing fetched, no sideways scrolling, and the map answers."""

import pytest

from scatsimclr import cli, report
from tests.reporting.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
DECODED = (
    "Promise.all([...document.images].map(i => (i.loading = 'eager', i.decode())))"
    ".then(() => document.images.length)"
)
POINT = """(() => {
  const dots = document.querySelectorAll('#map .dot');
  document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'});
  const box = dots[1].getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(hostile_run, flat_run, tmp_path_factory):
    both = tmp_path_factory.mktemp("pages") / "both.html"
    assert cli.run(report.command, [str(hostile_run), str(flat_run), "--output", str(both)]) == 0
    return {
        "labelled": hostile_run / "report.html", "unlabelled": flat_run / "report.html", "comparison": both,
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400, 320])
@pytest.mark.parametrize("name", ["labelled", "unlabelled", "comparison"])
def test_a_page_opens_without_an_error_at_any_width(browser, pages, name, width, scheme):
    browser.open(pages[name], width, scheme)
    assert browser.evaluate(DECODED) > 20 or name == "comparison"
    assert browser.problems() == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("typeof alert.called") == "undefined"
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(21, 22, 26)")


@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
def test_a_pointer_shows_the_image_under_it(browser, pages, name):
    browser.open(pages[name], 1280)
    assert browser.evaluate("document.getElementById('tip').hidden")
    browser.move(*browser.evaluate(POINT))
    assert not browser.evaluate("document.getElementById('tip').hidden")
    path = browser.evaluate("JSON.parse(document.getElementById('map-data').textContent).paths[1]")
    assert path in browser.evaluate("document.getElementById('tip').textContent")
    assert browser.evaluate("document.querySelectorAll('#tip *').length") == 1
    assert browser.problems() == []


def test_a_tap_and_the_arrow_keys_show_neighbours(browser, pages):
    browser.open(pages["labelled"], 400)
    x, y = browser.evaluate(POINT)
    browser.tap(x, y)
    near = browser.evaluate("JSON.parse(document.getElementById('map-data').textContent).near[1].length")
    assert browser.evaluate("document.querySelectorAll('#near li').length") == near > 0
    before = browser.evaluate("document.querySelector('#near .names').textContent")
    browser.evaluate(
        "document.querySelector('#map svg').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    )
    assert browser.evaluate("document.querySelector('#near .names').textContent") != before
    assert browser.evaluate("document.documentElement.scrollWidth") == 400
    assert browser.problems() == []
