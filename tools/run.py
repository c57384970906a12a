"""Boot Debian's kernel in a virtual machine.

usage: run.py [debian] [--check] [--vmm PROGRAM] [-m SIZE] [--cpu MODEL]

On a terminal it is a shell (or, with `debian`, a login) on the guest's serial line.
--check needs no person: a nonce of the host's goes in, the guest hashes it with what
is on its disk, writes the result there and powers off; the host looks for it in the
image. --vmm runs another program with a QEMU command line, such as QEMU itself.
"""
import argparse
import hashlib
import os
import pathlib
import secrets
import sys
import tempfile
import time

import assets
import vm

LODGE = assets.ROOT / "build/bin/lodge"
APPEND = "console=ttyS0 panic=-1"
BOOT_SECONDS = 180  # a hung guest, not a slow one


def check_words(nonce, seed):
    """What the guest's check.sh must have written."""
    return hashlib.sha256(f"lodge check {nonce} ".encode() + seed).hexdigest()


def start(options, image, append, **more):
    return vm.Vm(vm.vm_argv(options.vmm, kernel=assets.kernel(), initrd=assets.initrd(),
                            append=append, disks=[image], memory=options.memory,
                            cpu=options.cpu, **more))


def check_busybox(options, folder):
    """True when the image holds what only a guest that ran can have written."""
    nonce, seed = secrets.token_hex(16), secrets.token_bytes(64)
    (folder / "seed").write_bytes(seed)
    image = assets.copy_image(assets.root_image(), folder / "check.img")
    assets.image_write(image, "/check/seed", folder / "seed")
    append = f"{APPEND} lodge.script=/etc/check.sh lodge.nonce={nonce}"
    with start(options, image, append, extra=["-no-reboot"]) as guest:
        user_space = guest.wait_for(vm.USER_SPACE, BOOT_SECONDS)
        code = guest.wait(BOOT_SECONDS)
    total = time.monotonic() - guest.started
    if code != 0:
        print(f"the VMM ended with {code}: {guest.errors.strip()}")
        return False
    result = (assets.image_read(image, "/check/result") or b"").decode().strip()
    if result != check_words(nonce, seed):
        print(f"the image holds {result!r}, not {check_words(nonce, seed)!r}")
        return False
    print(f"user space after {user_space:.2f} s, switched off after {total:.2f} s, "
          f"result {result[:16]}... verified in the image")
    return True


def check_debian(options, folder):
    image = assets.copy_image(assets.debian_image(), folder / "debian.img")
    with start(options, image, APPEND, extra=["-no-reboot"]) as guest:
        user_space = guest.wait_for(vm.USER_SPACE, BOOT_SECONDS)
        login = guest.wait_for("lodge login:", BOOT_SECONDS)
        guest.type("root\n")
        shell = guest.wait_for("root@lodge:~#", BOOT_SECONDS)
        guest.type("systemctl poweroff\n")
        code = guest.wait(BOOT_SECONDS)
    print(f"user space after {user_space:.2f} s, login after {login:.2f} s, "
          f"shell after {shell:.2f} s, switched off with {code} after "
          f"{time.monotonic() - guest.started:.2f} s")
    return code == 0


def check(options):
    with tempfile.TemporaryDirectory(dir=assets.GUEST, prefix="check-") as folder:
        try:
            run = check_debian if options.what == "debian" else check_busybox
            passed = run(options, pathlib.Path(folder))
        except vm.Timeout as late:
            print(late)
            passed = False
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


def interactive(options):
    """Replaces this process by the VM, on a disk that keeps what is written."""
    if options.what == "debian":
        image = assets.debian_image()
    else:
        image, pristine = assets.GUEST / "disk.img", assets.root_image()
        if not assets.newer(image, pristine):
            assets.copy_image(pristine, image)
    kernel, initrd = assets.kernel(), assets.initrd()
    if options.vmm == vm.LODGE_VMM:
        argv = [str(LODGE), "run", "--kernel", str(kernel), "--initrd", str(initrd),
                "--append", "panic=-1", "--disk", str(image), "--memory", options.memory,
                "--cpu", options.cpu]
    else:
        argv = vm.vm_argv(options.vmm, kernel=kernel, initrd=initrd, append=APPEND,
                          disks=[image], memory=options.memory, cpu=options.cpu,
                          serial="mon:stdio")
    os.execv(argv[0], argv)


def parse():
    parser = argparse.ArgumentParser(prog="./dev run", allow_abbrev=False)
    parser.add_argument("what", nargs="?", choices=["busybox", "debian"],
                        default="busybox", help="which guest (default: busybox)")
    parser.add_argument("--check", action="store_true", help="no person: PASS or FAIL")
    parser.add_argument("--vmm", type=pathlib.Path, default=vm.default_vmm(),
                        help="the program that runs the VM")
    parser.add_argument("-m", "--memory", default="512M")
    parser.add_argument("--cpu", default="max", help="the CPU model")
    return parser.parse_args()


def main():
    options = parse()
    if not os.access(options.vmm, os.X_OK):
        sys.exit(f"dev: no program {options.vmm}: nothing to run the VM with")
    try:
        assets.initrd()
        return check(options) if options.check else interactive(options)
    except assets.AssetError as error:
        sys.exit(f"dev: {error}")


if __name__ == "__main__":
    sys.exit(main())
