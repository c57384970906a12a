"""What the integration tests share: the program under test and guests to run in it.

The tests run build/bin/lodge-vmm. LODGE_VMM=PROGRAM runs them against another program
with the same command line, such as /usr/bin/qemu-system-x86_64: that is how a test is
shown to say something about the machine and not about Lodge. LODGE_TREE=asan runs those
of another build tree (`./dev test --tree asan`).
"""
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import assets  # noqa: E402  (found through the line above)
import vm  # noqa: E402

BOOT_SECONDS = vm.patience(240)  # what hangs, not what is slow
APPEND = "console=ttyS0 panic=-1"


@pytest.fixture(scope="session")
def vmm():
    """The program under test; a tree without it fails its tests."""
    program = vm.default_vmm()
    if not os.access(program, os.X_OK):
        pytest.fail(f"no {program}: ./dev build leaves it there")
    return program


@pytest.fixture(scope="session")
def is_lodge(vmm):
    return not vm.is_qemu(vmm)


@pytest.fixture
def run_vm(vmm):
    """run_vm(extra, **what vm_argv takes) -> a running vm.Vm, killed after the test."""
    running = []

    def run(*extra, prefix=(), **options):
        argv = vm.vm_argv(vmm, extra=extra, **options)
        running.append(vm.Vm([*prefix, *argv]))
        return running[-1]

    yield run
    for guest in running:
        guest.kill()


class Guest:
    """A small Linux on its own root disk, running one shell script."""

    def __init__(self, run, image):
        self._run, self.image, self.vm = run, image, None

    def start(self, *extra, disks=(), append="", root=None, **options):
        self.vm = self._run(*extra, kernel=assets.kernel(), initrd=assets.initrd(),
                            append=f"{APPEND} lodge.script=/etc/test.sh {append}",
                            disks=[{"file": self.image, **(root or {})}, *disks],
                            **options)
        return self.vm

    def finish(self, *extra, **options):
        """Run to the guest's own power-off. Returns all of the serial line."""
        guest = self.start(*extra, **options)
        code = guest.wait(BOOT_SECONDS)
        assert code == 0, f"the VMM ended with {code}: {guest.errors}\n{guest.serial}"
        assert "lodge: script ended with 0" in guest.serial, guest.serial
        return guest.serial

    def read(self, name):
        """A file of the root disk, which the guest has left."""
        return assets.image_read(self.image, name)

    def report(self, name="/report"):
        """The guest's `key=value` lines as a dict."""
        text = (self.read(name) or b"").decode()
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@pytest.fixture
def make_guest(run_vm, tmp_path):
    """
    make_guest(script, files={}, size_mib=64) -> a Guest that is not yet started.

    A command of @script that fails ends it, and Guest.finish() with it.
    """
    def make(script, files=None, size_mib=64):
        image = assets.root_image(tmp_path / "root.img", size_mib,
                                  {"/etc/test.sh": f"set -e\n{script}".encode(), **(files or {})})
        return Guest(run_vm, image)

    return make
