"What the browser tests share: headless Chromium, which does what a user does. Where it is missing they are skipped; CHROMIUM names another one"
import contextlib, os, shutil, socket

import pytest

CHROMIUM = os.environ.get('CHROMIUM') or next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)
ARGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
WAIT = 120_000 # ms: a busy machine is not a failure
in_browser = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine (set CHROMIUM to its path)')

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

@contextlib.contextmanager
def chromium():
    "A browser; the test is skipped where there is none"
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not CHROMIUM: pytest.skip('no Chromium on this machine (set CHROMIUM to its path)')
    with playwright.sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()
