"""The pictures of pages that the documents show.

python -m tests.browser.screenshot runs/demo/report.html docs/images/report.png
python -m tests.browser.screenshot http://127.0.0.1:8000/ docs/images/live.png 1200 1900
python -m tests.browser.screenshot http://127.0.0.1:8000/ docs/images/live-phone.png 390 844
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.browser.chromium import Chromium

WIDTH, HEIGHT = 1400, 1400
# A live page has asked its server by then, more than once.
SETTLED = "new Promise(done => setTimeout(done, 2500))"


def main() -> None:
    page, picture, *size = sys.argv[1:]
    width, height = map(int, size) if size else (WIDTH, HEIGHT)
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("no chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, Chromium(program, Path(profile)) as browser:
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(page if "://" in page else Path(page), width=width, height=height)
        browser.evaluate(SETTLED)
        Path(picture).parent.mkdir(parents=True, exist_ok=True)
        Path(picture).write_bytes(browser.screenshot(full=False))


if __name__ == "__main__":
    main()
