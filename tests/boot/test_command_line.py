"""
Wrong words, files and sizes: a clear error that names the thing, an exit code that is
not 0, nothing written, and no machine started.
"""
import hashlib
import os
import subprocess
import time

import pytest

import assets
import vm

KIB, MIB = 1 << 10, 1 << 20
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def refuse(argv, *named, seconds=20):
    """Run @argv, which must fail by itself and say each of @named. Returns stderr."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=vm.patience(seconds))
    errors = done.stderr.decode(errors="replace")
    assert 0 < done.returncode < 126, f"ended with {done.returncode}: {errors}"
    for word in named:
        assert str(word) in errors, f"{word!r} is not in: {errors}"
    return errors


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(MIB))
    return path


@pytest.fixture
def kernel():
    return assets.kernel()


WRONG_WORDS = [
    (["-kernl", "x"], "kernl", "-kernel"),
    (["-appnd", "x"], "appnd", "-append"),
    (["-M", "microvmm"], "microvmm", "microvm"),
    (["-cpu", "qemu46"], "qemu46", "qemu64"),
    (["-accel", "btt"], "btt", "bt"),
    (["-device", "virtio-blk-devise"], "virtio-blk-devise", "virtio-blk-device"),
    (["-device", "virtio-blk-device,drve=disk0"], "drve", "drive"),
    (["-device", "virtio-rng-device,max-bites=1"], "max-bites", "max-bytes"),
    (["-drive", "if=none,id=a,file=/dev/null,formt=raw"], "formt", "format"),
    (["-drive", "if=none,id=a,file=/dev/null,format=rw"], "rw", "raw"),
    (["-drive", "if=none,id=a,file=/dev/null,format=raw,cache=nonne"], "nonne", "none"),
    (["-chardev", "soket,id=a"], "soket", "socket"),
]


@pytest.mark.parametrize("words, wrong, right", WRONG_WORDS,
                         ids=[w[0].lstrip("-") + "-" + wrong for w, wrong, _ in WRONG_WORDS])
def test_unknown_word_is_named_with_the_nearest_one(vmm, is_lodge, kernel, words, wrong,
                                                     right):
    if words[0] in ("-M", "-cpu", "-accel"):
        argv = [vmm, "-display", "none", *words]
    else:
        argv = vm.vm_argv(vmm, kernel=kernel, extra=words, serial="null")
    errors = refuse(argv)
    # Naming both is Lodge's own service.
    if is_lodge:
        assert wrong in errors and right in errors.replace(wrong, ""), errors


@pytest.mark.parametrize("words, named", [
    (["-device", "virtio-blk-device,drive=nosuch"], "nosuch"),
    (["-device", "virtio-blk-device"], "drive"),
    (["-device", ""], "device"),
    (["-drive", "if=none,id=a,file=/dev/null,format=raw,readonly=perhaps"], "readonly"),
    (["-m", "many"], "many"),
    (["-m", "-5"], "-5"),
    (["-smp", "0"], "0"),
    (["-smp", "x"], "x"),
    (["-kernel"], "kernel"),
    (["-serial", "nonsense"], "nonsense"),
    (["-serial", "chardev:nosuch"], "nosuch"),
    (["-uuid", "not-a-uuid"], "uuid"),
    (["stray-word"], "stray-word"),
], ids=lambda v: "_".join(v) if isinstance(v, list) else "")
def test_wrong_value_is_named(vmm, is_lodge, kernel, words, named):
    if words == ["-smp", "0"] and not is_lodge:
        pytest.skip("QEMU 7.2 takes it with a warning")
    refuse(vm.vm_argv(vmm, kernel=kernel, extra=words, serial="null"), named)


def test_help_and_version_succeed(vmm):
    for words in (["-help"], ["-version"], ["-M", "help"], ["-cpu", "help"],
                  ["-accel", "help"], ["-device", "help"],
                  ["-device", "virtio-blk-device,help"]):
        done = subprocess.run([vmm, *words], stdout=subprocess.PIPE, timeout=vm.patience(20))
        assert done.returncode == 0, words
        assert done.stdout.strip(), words


# Kernels and initrds

def test_missing_kernel_is_named(vmm, tmp_path):
    refuse(vm.vm_argv(vmm, kernel=tmp_path / "nokernel", serial="null"), "nokernel")


def test_folder_is_no_kernel(vmm, tmp_path):
    refuse(vm.vm_argv(vmm, kernel=tmp_path, serial="null"), tmp_path)


@pytest.mark.parametrize("size", [0, 100, 600, 20 * KIB, 8 * MIB])
def test_truncated_kernel_is_refused(vmm, is_lodge, kernel, tmp_path, size):
    if not is_lodge:
        pytest.skip("QEMU starts what it could read")
    cut = tmp_path / "cut-kernel"
    cut.write_bytes(kernel.read_bytes()[:size])
    refuse(vm.vm_argv(vmm, kernel=cut, serial="null"), "cut-kernel")


@pytest.mark.parametrize("head", [b"\x7fELF\x02\x01\x01", b"\x7fELF\x02\x01\x01" + bytes(57),
                                  b"#!/bin/sh\n", b"MZ"])
def test_what_is_no_kernel_is_refused(vmm, is_lodge, tmp_path, head):
    if not is_lodge:
        pytest.skip("QEMU starts what it could read")
    other = tmp_path / "other-file"
    other.write_bytes(head + b"\xa5" * 4096)
    refuse(vm.vm_argv(vmm, kernel=other, serial="null"), "other-file")


def test_missing_initrd_is_named(vmm, kernel, tmp_path):
    refuse(vm.vm_argv(vmm, kernel=kernel, initrd=tmp_path / "noinitrd", serial="null"),
           "noinitrd")


def test_initrd_larger_than_memory_is_refused(vmm, kernel, tmp_path):
    big = tmp_path / "big-initrd"
    with open(big, "wb") as file:
        file.truncate(512 * MIB)
    refuse(vm.vm_argv(vmm, kernel=kernel, initrd=big, memory="128M", serial="null"))


def test_initrd_without_kernel_is_refused(vmm, is_lodge):
    if not is_lodge:
        pytest.skip("QEMU's microvm ignores it")
    refuse(vm.vm_argv(vmm, initrd=assets.initrd(), serial="null"), "-kernel")


# Memory

def test_memory_too_small_for_the_kernel_is_refused(vmm, is_lodge, kernel):
    if not is_lodge:
        pytest.skip("QEMU lets the guest run into the end of memory")
    refuse(vm.vm_argv(vmm, kernel=kernel, memory="8M", serial="null"), "memory")


@pytest.mark.parametrize("size", ["512T", "7E", "99999999999999999999"])
def test_memory_larger_than_the_host_allows_is_refused(vmm, kernel, size):
    refuse(vm.vm_argv(vmm, kernel=kernel, memory=size, serial="null"))


# Images

def test_missing_image_is_named_and_not_made(vmm, kernel, tmp_path):
    path = tmp_path / "nodisk.img"
    refuse(vm.vm_argv(vmm, kernel=kernel, disks=[path], serial="null"), "nodisk.img")
    assert not path.exists()


def test_folder_is_no_image(vmm, kernel, tmp_path):
    refuse(vm.vm_argv(vmm, kernel=kernel, disks=[tmp_path], serial="null"), tmp_path)


def as_nobody(command, folder):
    """@command as a user who may not do everything."""
    if os.geteuid() != 0:
        return command
    for parent in [folder, *folder.parents]:
        if "pytest" in str(parent):
            parent.chmod(0o755)
    return [*NOBODY, *command]


def test_unreadable_image_is_refused(vmm, kernel, image):
    argv = vm.vm_argv(vmm, kernel=kernel, disks=[image], serial="null")
    image.chmod(0)
    refuse(as_nobody(argv, image.parent), "disk.img", "Permission denied")


def test_image_that_cannot_be_written_is_refused_for_writing(vmm, kernel, image):
    argv = vm.vm_argv(vmm, kernel=kernel, disks=[image], serial="null")
    image.chmod(0o444)
    before = hashlib.sha256(image.read_bytes()).digest()
    refuse(as_nobody(argv, image.parent), "disk.img")
    assert hashlib.sha256(image.read_bytes()).digest() == before


def wait_for_lock(image, holder):
    """Until another process holds the image: then qemu-io may not open it to write."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and holder.poll() is None:
        done = subprocess.run(["qemu-io", "-f", "raw", "-c", "length", str(image)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if b"lock" in done.stderr:
            return
        time.sleep(0.1)
    pytest.fail(f"{image} never was locked")


@pytest.fixture
def qemu_holds(image):
    """A QEMU, stopped before its first instruction, has the image as its disk."""
    with vm.Vm(vm.vm_argv(vm.QEMU, disks=[image], serial="null", extra=["-S"])) as holder:
        wait_for_lock(image, holder.process)
        yield image


def test_image_locked_by_a_qemu_is_refused(vmm, kernel, qemu_holds):
    before = hashlib.sha256(qemu_holds.read_bytes()).digest()
    refuse(vm.vm_argv(vmm, kernel=kernel, disks=[qemu_holds], serial="null"),
           "disk.img", "lock")
    assert hashlib.sha256(qemu_holds.read_bytes()).digest() == before


def test_image_of_a_running_vm_is_refused_to_others(run_vm, vmm, kernel, image):
    running = run_vm(kernel=kernel, disks=[image], serial="null")
    wait_for_lock(image, running.process)

    refuse(vm.vm_argv(vmm, kernel=kernel, disks=[image], serial="null"),
           "disk.img", "lock")
    refuse(["qemu-io", "-f", "raw", "-c", "write 0 512", image], "lock")


def test_killed_vm_leaves_no_lock(run_vm, vmm, kernel, image):
    running = run_vm(kernel=kernel, disks=[image], serial="null")
    wait_for_lock(image, running.process)
    running.kill()

    subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)], check=True,
                   stdout=subprocess.DEVNULL, timeout=vm.patience(20))


def test_two_vms_may_read_the_same_image(run_vm, kernel, image):
    disk = {"file": image, "readonly": "on"}
    first = run_vm(kernel=kernel, disks=[disk], append="console=ttyS0")
    second = run_vm(kernel=kernel, disks=[disk], append="console=ttyS0")
    for machine in (first, second):
        machine.wait_for("Linux version", 60)


def test_pidfile_holds_the_pid_while_it_runs(run_vm, kernel, tmp_path):
    pidfile = tmp_path / "pid"
    machine = run_vm("-pidfile", pidfile, kernel=kernel, append="console=ttyS0")
    machine.wait_for("Linux version", 60)

    assert int(pidfile.read_text()) == machine.pid
