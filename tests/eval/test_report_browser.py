"""The page of a run in a browser: it fits, shows its curves, and runs nothing."""

import html
import json
import re
import shutil
import struct
import subprocess

import pytest
from report_run import made

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# runs in the frame around the page: the page itself can run nothing
MEASURE = """<body style="margin:0">
<iframe id="f" src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
document.getElementById("f").onload = function () {
  const page = this.contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg path:not(.grid)")].map(p => p.getBoundingClientRect());
  document.body.dataset.found = JSON.stringify({
    title: page.title, inner: root.clientWidth, wide: root.scrollWidth, tall: root.scrollHeight,
    scripts: page.scripts.length, images: page.images.length,
    paper: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color,
    lines: boxes.map(b => [b.width, b.height]), size: getComputedStyle(page.querySelector(".chart span")).fontSize,
    tables: [...page.querySelectorAll("table")].map(t => t.parentElement.getBoundingClientRect().right)
  });
};
</script></body>"""


def browse(folder, page, *flags):
    """Open a local file in headless Chromium without a network."""
    known = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    known += " --disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"
    line = [CHROMIUM, *known.split(), f"--user-data-dir={folder / 'profile'}", *flags, (folder / page).as_uri()]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
class TestInABrowser:
    def measure(self, run, width, *flags):
        (run / "measure.html").write_text(MEASURE.replace("WIDTH", str(width)))
        found = browse(run, "measure.html", "--virtual-time-budget=4000", "--dump-dom", *flags)
        value = re.search(r'data-found="([^"]*)"', found)
        assert value, found[:2000]
        return json.loads(html.unescape(value[1]))

    @pytest.mark.parametrize("width", [360, 390, 1200])
    def test_it_fits_and_shows_its_curves(self, run, tmp_path, width):
        made(run, "--before", tmp_path / "before")
        found = self.measure(run, width)
        assert found["inner"] == width
        assert found["wide"] == width  # nothing makes the page scroll sideways
        assert all(right <= width for right in found["tables"])
        assert found["tall"] > 2000
        assert all(w > width * 0.5 and h > 20 for w, h in found["lines"])
        assert float(found["size"].removesuffix("px")) >= 11
        # hostile text has made no element and run no script
        assert (found["scripts"], found["images"], found["title"]) == (0, 0, "my run: report")

    def test_dark_where_the_reader_wants_it(self, run, tmp_path):
        made(run)
        light = self.measure(run, 390)
        dark = self.measure(run, 390, "--force-dark-mode", "--blink-settings=preferredColorScheme=0")
        assert light["paper"] != dark["paper"]
        assert brightness(light["paper"]) > 200 > brightness(light["ink"])
        assert brightness(dark["paper"]) < 60 < brightness(dark["ink"])

    def test_a_screenshot(self, run, tmp_path):
        made(run, "--before", tmp_path / "before")
        browse(run, "report.html", "--window-size=1000,2400", f"--screenshot={tmp_path / 'page.png'}")
        picture = (tmp_path / "page.png").read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", picture[16:24]) == (1000, 2400)
        assert len(picture) > 40_000  # an empty page has about 8 kB


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
