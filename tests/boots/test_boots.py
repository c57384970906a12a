"""Debian's kernels, many times in a row and in all their kinds: none may hang.

long. LODGE_BOOTS=N says how many boots of the cloud kernel in a row (default 200), with
1, 2 and 8 vCPUs in turn; each runs a shell test on all of its processors.
"""
import hashlib
import os
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import assets  # noqa: E402
import vm  # noqa: E402

pytestmark = pytest.mark.long

BOOTS = int(os.environ.get("LODGE_BOOTS", "200"))
HANGS = 240  # seconds: a hung guest, not a slow one
APPEND = "console=ttyS0 panic=-1"

# One process pinned to each processor hashes the same file; the sums must agree, and
# every processor must have taken timer and function-call interrupts.
ON_ALL = """
exec >/report
n=$(nproc)
echo "cpus $n"
i=0
while [ $i -lt $n ]; do
    taskset $(printf %x $((1 << i))) sha256sum /data/in >/tmp/sum.$i &
    i=$((i + 1))
done
wait
for f in /tmp/sum.*; do
    read -r sum rest <$f
    echo "sum $sum"
done
sync
"""


def boot(folder, name, vcpus, script, files, kind="cloud"):
    """Boot, run @script, switch off; what the guest wrote to /report."""
    arch, _ = assets.KERNELS[kind]
    kernel, initrd = assets.kernel(kind), assets.initrd(kind)
    image = assets.root_image(folder / f"{name}.img", files={
        "/etc/test.sh": script.encode(), "/bin/busybox": assets.busybox(arch), **files})
    argv = vm.vm_argv(vm.default_vmm(), kernel=kernel, initrd=initrd,
                      append=f"{APPEND} lodge.script=/etc/test.sh", disks=[image],
                      extra=["-smp", str(vcpus), "-no-reboot"])
    with vm.Vm(argv) as guest:
        user_space = guest.wait_for(vm.USER_SPACE, HANGS)
        code = guest.wait(HANGS)
        total = time.monotonic() - guest.started
    assert code == 0, guest.errors
    report = (assets.image_read(image, "/report") or b"").decode().splitlines()
    image.unlink()
    return report, user_space, total


def check_on_all(folder, name, vcpus, kind="cloud"):
    data = os.urandom(1 << 20)
    report, *times = boot(folder, name, vcpus, ON_ALL, {"/data/in": data}, kind)
    want = f"sum {hashlib.sha256(data).hexdigest()}"
    assert report == [f"cpus {vcpus}", *[want] * vcpus]
    return times


@pytest.mark.parametrize("vcpus", [1, 2, 8])
@pytest.mark.parametrize("kind", assets.KERNELS)
def test_kernel_works_on_all_its_processors(tmp_path, kind, vcpus):
    check_on_all(tmp_path, kind, vcpus, kind=kind)


def test_no_boot_of_many_hangs(tmp_path, capsys):
    for i in range(BOOTS):
        vcpus = (1, 2, 8)[i % 3]
        user_space, total = check_on_all(tmp_path, f"boot{i}", vcpus)
        with capsys.disabled():
            print(f"boot {i + 1} of {BOOTS}: {vcpus} vCPUs, user space after "
                  f"{user_space:.1f} s, off after {total:.1f} s", flush=True)
