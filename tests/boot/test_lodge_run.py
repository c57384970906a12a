"""`lodge run`: the short form, with the guest's serial line on the terminal."""
import os
import pty
import select
import subprocess
import termios
import time

import pytest

import assets
from conftest import APPEND, BOOT_SECONDS, ROOT
import vm

LODGE = vm.PROGRAMS / "lodge"


@pytest.fixture(autouse=True)
def only_lodge(is_lodge):
    if not is_lodge:
        pytest.skip("`lodge run` starts lodge-vmm only")


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, argv):
        self.master, self.slave = pty.openpty()
        self.settings = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen([str(a) for a in argv], stdin=self.slave,
                                        stdout=self.slave, stderr=self.slave)
        self.text = b""

    def wait_for(self, word, seconds):
        deadline = time.monotonic() + seconds
        while word.encode() not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, self.text.decode(errors="replace")[-3000:]
            if select.select([self.master], [], [], min(left, 0.5))[0]:
                self.text += os.read(self.master, 65536)

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def lodge_run(tmp_path):
    started = []

    def run(*words):
        disk = assets.copy_image(assets.root_image(), tmp_path / "root.img")
        started.append(Terminal([LODGE, "run", "--kernel", assets.kernel(), "--initrd",
                                 assets.initrd(), "--append", APPEND, "--disk", disk,
                                 *words]))
        return started[-1]

    yield run
    for terminal in started:
        terminal.end()


def test_shell_on_the_terminal_answers_and_exit_switches_off(lodge_run):
    terminal = lodge_run()
    terminal.wait_for(vm.USER_SPACE, BOOT_SECONDS)
    terminal.wait_for("/root #", BOOT_SECONDS)

    terminal.type("echo $((6 * 7))th\r")
    terminal.wait_for("42th", 60)
    terminal.type("exit\r")
    terminal.wait_for("Power down", 60)

    assert terminal.process.wait(vm.patience(20)) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_escape_key_leaves_and_restores_the_terminal(lodge_run):
    terminal = lodge_run()
    terminal.wait_for("Linux version", 60)
    assert termios.tcgetattr(terminal.slave) != terminal.settings

    terminal.type("\x1d")

    assert terminal.process.wait(vm.patience(20)) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_unknown_option_is_named_with_the_nearest_one():
    done = subprocess.run([LODGE, "run", "--kernle", "x"], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=vm.patience(20))

    assert done.returncode not in (0, None) and done.returncode > 0
    assert b"kernle" in done.stderr and b"--kernel" in done.stderr
