"""The picture of a report that the README shows.

python -m tests.browser.screenshot runs/demo/report.html docs/images/report.png
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.browser.chromium import Chromium

WIDTH, HEIGHT = 1400, 1400


def main() -> None:
    page, picture = map(Path, sys.argv[1:])
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("no chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, Chromium(program, Path(profile)) as browser:
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(page, width=WIDTH, height=HEIGHT)
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(browser.screenshot(full=False))


if __name__ == "__main__":
    main()
