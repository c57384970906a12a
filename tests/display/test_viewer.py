"""TigerVNC's viewer, a program that we did not write, at work on a guest's screen."""
import os
import secrets
import shutil
import subprocess
import time

import pytest

import rfb
from test_display import SECONDS, TYPEWRITER, boot_disk, start  # noqa: F401 (a fixture)

NEEDED = {"Xvfb": "xvfb", "xtigervncviewer": "tigervnc-viewer", "xdotool": "xdotool",
          "import": "imagemagick"}
WIDTH, HEIGHT = 1024, 768


@pytest.fixture
def x_display(tmp_path):
    """The environment of an X server that nobody sees."""
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0",
                               f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp"], pass_fds=[write],
                              stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        name = number.readline().strip()
    assert name, "Xvfb did not start"
    yield {**os.environ, "DISPLAY": f":{name}", "HOME": str(tmp_path)}
    server.kill()
    server.wait()


class Picture(rfb.Viewer):
    """What an X server shows, read as a screen's text is."""

    def __init__(self, env):
        self._cells = {}
        self.width, self.height = WIDTH, HEIGHT
        rgb = subprocess.run(["import", "-silent", "-window", "root", "-depth", "8", "bgra:-"],
                             env=env, stdout=subprocess.PIPE, check=True).stdout
        assert len(rgb) == 4 * WIDTH * HEIGHT
        self.pixels = bytearray(rgb)
        self.pixels[3::4] = bytes(WIDTH * HEIGHT)

    def find(self, wanted):
        """The text with @wanted in it: the viewer's window may begin anywhere."""
        for dy in range(16):
            for dx in range(9):
                text = self.text(width=9)
                if wanted in text:
                    return text
                del self.pixels[:4]  # a column to the left
            del self.pixels[:4 * (WIDTH - 9)]  # and a line up
            self.height -= 1
        return None


@pytest.mark.parametrize("encoding", ("Tight", "ZRLE"))
def test_tigervnc_shows_and_types(start, x_display, tmp_path, encoding):  # noqa: F811
    shown, typed = secrets.token_hex(12), secrets.token_hex(4)
    guest, where = start("q35", boot_disk(tmp_path / "disk", TYPEWRITER, shown + "\r\n"))
    rfb.connect(where, SECONDS).close()
    log = open(tmp_path / "viewer.log", "wb")
    viewer = subprocess.Popen(["xtigervncviewer", "-AutoSelect=0", f"-PreferredEncoding={encoding}",
                               "-NoJPEG=1", "-RemoteResize=0", "-SecurityTypes=None",
                               "-AlertOnFatalError=0", "-geometry", "+0+0", str(where)],
                              env=x_display, stdout=log, stderr=log)
    try:
        text = wait_for_text(x_display, shown, viewer, log)
        subprocess.run(["xdotool", "search", "--onlyvisible", "--name", "TigerVNC", "windowfocus",
                        "--sync", "type", "--delay", "60", typed], env=x_display, check=True,
                       timeout=SECONDS)
        guest.wait_for(typed, SECONDS)
        text = wait_for_text(x_display, typed, viewer, log)
        assert shown in text
    finally:
        viewer.kill()
        viewer.wait()
        log.close()


def wait_for_text(env, wanted, viewer, log):
    end = time.monotonic() + SECONDS
    while True:
        text = Picture(env).find(wanted)
        if text:
            return text
        assert viewer.poll() is None, open(log.name).read()
        assert time.monotonic() < end, f"no {wanted} in the viewer"
        time.sleep(0.2)
