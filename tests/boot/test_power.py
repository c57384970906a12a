"""How a machine goes on and off, and what its guest's death does."""
import subprocess
import sys

import pytest

import assets
from conftest import BOOT_SECONDS, ROOT
import vm

COUNT_BOOTS = """
echo boot >>/boots
sync
[ $(wc -l </boots) -ge 2 ] && exit 0
mount -o remount,ro /
reboot -f
"""


def test_check_of_dev_run_passes(vmm):
    done = subprocess.run([sys.executable, ROOT / "tools/run.py", "--check"],
                          stdout=subprocess.PIPE, timeout=2 * BOOT_SECONDS)

    assert done.stdout.decode().splitlines()[-1] == "PASS", done.stdout.decode()
    assert done.returncode == 0


def test_reset_by_the_guest_boots_it_again(make_guest, is_lodge):
    if not is_lodge:
        pytest.skip("QEMU 7.2's microvm does not come back from a reset")
    guest = make_guest(COUNT_BOOTS)

    serial = guest.finish()

    assert serial.count(vm.USER_SPACE) == 2
    assert guest.read("/boots") == b"boot\nboot\n"


def test_reset_by_the_guest_ends_the_vmm_with_no_reboot(make_guest):
    guest = make_guest(COUNT_BOOTS)

    machine = guest.start("-no-reboot")
    code = machine.wait(BOOT_SECONDS)

    assert code == 0, machine.errors
    assert machine.serial.count(vm.USER_SPACE) == 1
    assert guest.read("/boots") == b"boot\n"


def test_kernel_panic_ends_the_vmm_with_no_reboot(make_guest):
    guest = make_guest("echo c >/proc/sysrq-trigger; sleep 60")

    machine = guest.start("-no-reboot")
    machine.wait(BOOT_SECONDS)

    assert "Kernel panic - not syncing: sysrq triggered crash" in machine.serial
    assert "lodge: script ended" not in machine.serial


def test_kernel_without_a_root_disk_lands_in_the_initramfs(run_vm):
    machine = run_vm("-no-reboot", kernel=assets.kernel(), initrd=assets.initrd(),
                     append="console=ttyS0 panic=-1")
    machine.wait_for("lodge: no root disk", BOOT_SECONDS)
    machine.wait_for("#", BOOT_SECONDS)

    machine.type("echo $((6 * 7))th; poweroff -f\n")

    assert machine.wait(vm.patience(60)) == 0
    assert "42th" in machine.serial
