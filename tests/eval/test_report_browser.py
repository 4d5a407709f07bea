"""The page of a run in a browser: it fits, shows its curves, finds rows, fetches nothing and runs nothing foreign."""

import json
import os
import re
import shutil
import struct

import pytest
from report_run import HOSTILE, made

from eval.report import build_report

pytestmark = pytest.mark.backend
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run"
# what is on the screen after the page has loaded
MEASURE = """
const root = document.documentElement, style = getComputedStyle(document.body);
const curves = document.querySelectorAll(["after", "before", "mark"].map(c => `svg path[style*="--${c})"]`).join());
const size = e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a;
return {
  title: document.title, inner: root.clientWidth, wide: root.scrollWidth, tall: root.scrollHeight,
  scripts: document.scripts.length, images: document.images.length, paper: style.backgroundColor, ink: style.color,
  lines: [...curves].map(p => p.getBoundingClientRect()).map(b => [b.width, b.height]),
  sizes: [...document.querySelectorAll("svg text")].map(size),
  tables: [...document.querySelectorAll("table")].map(t => t.parentElement.getBoundingClientRect().right),
};
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Headless Chromium; where it must be there and is not, the tests fail."""
    if CHROMIUM is None or DRIVER is None:
        missing = "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, Service(DRIVER)) as found:
        yield found


class Browser:
    """The page of a run, opened."""

    def __init__(self, driver, path, width=1200, scheme="light", scripts=True):
        self.driver = driver
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.logs()
        driver.get(path.as_uri())

    def devtools(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def logs(self):
        """Return what the console said, and the addresses asked for that no policy blocked, since the last call."""
        asked = {}
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                asked[event["params"]["requestId"]] = event["params"]["request"]["url"]
            elif event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp":
                del asked[event["params"]["requestId"]]
        return self.driver.get_log("browser"), list(asked.values())

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def choose(self, name, label):
        from selenium.webdriver.support.select import Select

        Select(self.find(f"select[name={name}]")).select_by_visible_text(label)

    def search(self, text):
        field = self.find("input[name=text]")
        field.clear()
        field.send_keys(text)

    @property
    def count(self):
        return self.find("#rows-count").text

    @property
    def rows(self):
        """The rows on the screen, each the texts of its cells."""
        return self.run("return [...document.querySelectorAll('#rows tbody tr')].map(r => "
                        "[...r.cells].map(c => c.innerText.trim()))")  # fmt: skip


@pytest.fixture(scope="module")
def page(driver, finished, tmp_path_factory):
    """Opens the page of the run, with its before."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    before = [finished / "before"]
    file.write_text(build_report(finished / "my run", before=before).html, encoding="utf-8")
    return lambda **settings: Browser(driver, file, **settings)


@pytest.mark.parametrize("width", [360, 380, 430, 590, 800, 1200])
def test_it_fits_and_shows_its_curves(page, width):
    found = page(width=width).run(MEASURE)
    assert found["inner"] == width
    assert found["wide"] == width  # nothing makes the page scroll sideways
    assert all(right <= width for right in found["tables"])
    assert found["tall"] > 2000
    assert len(found["lines"]) == 3
    assert all(w > width * 0.5 and h > 20 for w, h in found["lines"])
    assert min(found["sizes"]) >= 11
    # hostile text has made no element and run no script
    assert (found["scripts"], found["images"], found["title"]) == (2, 0, "my run: report")


def test_dark_where_the_reader_wants_it(page):
    light = page(width=390).run(MEASURE)
    dark = page(width=390, scheme="dark").run(MEASURE)
    assert light["paper"] != dark["paper"]
    assert brightness(light["paper"]) > 200 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 60 < brightness(dark["ink"])


def test_a_screenshot(page):
    picture = page(width=1000).driver.get_screenshot_as_png()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1000, 900)
    assert len(picture) > 30_000  # an empty page has about 8 kB


def test_filters_change_the_rows_and_their_count(page):
    browser = page()
    assert browser.count == "120 of 120 rows"
    assert len(browser.rows) == 25
    assert not browser.find("#rows-fallback").is_displayed()
    browser.choose("task", "math: math1.jsonl")
    assert browser.count == "40 of 120 rows"
    browser.choose("kind", "eq solve")
    assert browser.count == "20 of 120 rows"
    assert len(browser.rows) == 20
    assert browser.rows[0] == [
        "row 0, eq solve\nmath: math1.jsonl", "解方程 2x + 0 = 0", "方程的解为：0",
        "right\n答案：0", "right\n答案：0",
    ]  # fmt: skip
    browser.choose("before", "wrong")
    assert browser.count == "18 of 120 rows"
    browser.choose("after", "right")
    assert browser.count == "13 of 120 rows"
    assert all("wrong" in before and "right" in after for *_, before, after in browser.rows)
    # the kinds of one task are none of another's
    browser.choose("task", "choice_rte")
    assert browser.find("select[name=kind]").get_attribute("value") == ""
    assert [one.text for one in browser.all("select[name=kind] option")] == ["any", "label yes", "label no"]
    browser.find("button[name=reset]").click()
    assert browser.count == "120 of 120 rows"


def test_buttons_count_what_changed(page):
    browser = page()
    texts = [one.text for one in browser.all(".changes button")]
    # math 4 → 30 of 40, choice 12 → 24 of 30, reading 46 → 44 of 50; the first rows are the right ones
    assert texts == ["wrong → right 38", "right → wrong 2", "right → right 60", "wrong → wrong 20"]
    lost = browser.all(".changes button")[1]
    lost.click()
    assert browser.count == "2 of 120 rows"
    assert [row[0].split("\n")[0] for row in browser.rows] == ["row 44", "row 45"]
    assert lost.get_attribute("aria-pressed") == "true"
    assert browser.find("select[name=before]").get_attribute("value") == "right"
    lost.click()
    assert browser.count == "120 of 120 rows"


def test_text_is_searched_in_every_column(page):
    browser = page()
    browser.search("解方程 2x + 14")
    assert browser.count == "0 of 120 rows"
    browser.search("2x  + 12")
    assert [row[0] for row in browser.rows] == ["row 6, eq solve\nmath: math1.jsonl"]
    assert [one.text for one in browser.all("#rows mark")] == ["2x + 12"]
    browser.search("i KNOW not")
    assert browser.count == "18 of 120 rows"
    # signs of patterns are only signs
    for text, count in (("(", 36), (".*", 0), ("[a-z]", 0), ("\\", 0), ("$", 0)):
        browser.search(text)
        assert browser.count == f"{count} of 120 rows"


def test_a_long_text_is_shown_by_its_ends_until_it_is_opened(driver, run):
    import hashlib

    # the page reads the reading set's predictions as they are
    folder = run / "eval" / "squad-reading"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    rows[0]["prompt"] = "Read this. " + "one two\n" * 40 + "needle " + "three four " * 40 + "Question: what? Answer:"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    old = hashlib.sha256((folder / "predictions.jsonl").read_bytes()).hexdigest()
    (folder / "predictions.jsonl").write_text(text)
    results = (folder / "results.json").read_text().replace(old, hashlib.sha256(text.encode()).hexdigest())
    (folder / "results.json").write_text(results)
    made(run)
    browser = Browser(driver, run / "report.html")
    browser.search("read this")
    [[_, prompt, *_]] = browser.rows
    assert prompt.startswith("Read this. one two")
    assert prompt.endswith("Question: what? Answer:")
    assert " … " in prompt
    assert len(prompt) < 200
    browser.search("needle")
    [[_, prompt, *_]] = browser.rows
    assert "needle" in prompt
    assert len(prompt) < 300
    browser.find("#rows tbody button").click()
    assert browser.rows[0][1] == rows[0]["prompt"]
    browser.find("#rows tbody button").click()
    assert browser.rows[0][1] == prompt
    browser.find("input[name=whole]").click()
    assert browser.rows[0][1] == rows[0]["prompt"]


def test_hostile_text_is_only_text(page):
    browser = page()
    browser.search('<script>document.title="hit"')
    assert browser.count == "36 of 120 rows"
    assert HOSTILE in browser.rows[0][3]
    browser.find("#rows tbody button").click()
    found = browser.run(MEASURE)
    assert (found["scripts"], found["images"], found["title"]) == (2, 0, "my run: report")
    assert browser.all("#rows-browser script, #rows-browser img") == []


def test_nothing_is_fetched_and_nothing_complains(page):
    browser = page()
    browser.search("yes")
    browser.choose("after", "right")
    console, asked = browser.logs()
    assert console == []
    assert len(asked) == 1
    assert asked[0].startswith("file://")
    # the policy holds: not even a script put into the page can run or fetch
    browser.run("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    browser.run("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/'}))")
    console, asked = browser.logs()
    assert browser.driver.title == "my run: report"
    assert asked == []
    assert len([one for one in console if "Content Security Policy" in one["message"]]) == 2


def test_pages_and_whole_texts_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    browser = page()
    assert browser.find(".pages span").text == "page 1 of 5"
    following = browser.find("button[name=next]")
    following.send_keys(Keys.ENTER)
    assert browser.find(".pages span").text == "page 2 of 5"
    assert browser.rows[0][0].startswith("row 25")
    for _ in range(3):
        following.send_keys(Keys.SPACE)
    assert browser.find(".pages span").text == "page 5 of 5"
    assert not following.is_enabled()
    assert len(browser.rows) == 20
    row = browser.find("#rows tbody button")
    row.send_keys(Keys.ENTER)
    assert row.get_attribute("aria-expanded") == "true"
    # from the search by the tabulator through every control to the first row
    field = browser.find("input[name=text]")
    field.send_keys("row 3")
    names = []
    for _ in range(11):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        names.append(browser.driver.switch_to.active_element.get_attribute("name"))
    assert [name for name in names if name] == ["task", "kind", "before", "after", "reset", "whole"]
    assert browser.driver.switch_to.active_element.text.startswith("row 3")


def test_without_a_before_its_columns_are_away(driver, run):
    made(run)
    browser = Browser(driver, run / "report.html")
    assert [one.text for one in browser.all("#rows th") if one.is_displayed()] == ["Row", "Prompt", "Label", "After"]
    assert not browser.find("select[name=before]").is_displayed()
    assert not browser.find(".changes").is_displayed()
    assert {len(row) for row in browser.rows} == {4}


def test_without_scripts_the_wrong_answers_remain(page):
    browser = page(scripts=False)
    text = html_text(browser.driver.page_source)
    assert "needs a browser with scripts" in text
    assert "10 of 10 wrong answers to 40 questions" in text
    shown = browser.devtools("Runtime.evaluate", expression="""[
        document.getElementById("rows-browser").offsetHeight, document.getElementById("rows-fallback").offsetHeight > 0,
    ].join()""")  # fmt: skip
    assert shown["result"]["value"] == "0,true"


def test_on_paper_controls_are_away_and_wrong_answers_unfolded(page):
    browser = page()
    folded = browser.all("details .pair")[-1]
    assert not folded.is_displayed()
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    assert folded.rect["height"] > 0
    assert not browser.find(".controls").is_displayed()
    assert not browser.find(".pages").is_displayed()
    assert browser.find("#rows tbody").is_displayed()
    browser.devtools("Emulation.setEmulatedMedia", media="")


def html_text(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
