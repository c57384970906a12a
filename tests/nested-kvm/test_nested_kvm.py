"""lodge-vmm -accel kvm on a complete KVM: in a machine of QEMU's software CPU, which has
AMD's virtualization (l1.py). One boot of that machine runs everything; the tests read
what came out. Minutes, so it is `long`; the host needs no KVM.
"""
import fcntl
import hashlib
import json
import pathlib
import re
import secrets
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]
import l1  # noqa: E402
import test_guest  # noqa: E402

pytestmark = pytest.mark.long

MODES = ("off", "split", "on")
CPUS = (1, 2)
BOOT_SECONDS = 1200  # what hangs, not what is slow
BUILT = l1.vm.BUILT
UNIT = {"kvm": BUILT / "vmm/accel/kvm/kvm_test",
        "transfer": BUILT / "tests/accel/transfer_test"}
# Eight virtual processors on two that are software themselves take too long.
GUESTS = [g for g in test_guest.guests() if g not in test_guest.CPUS]

# Runs in Debian's kernel on its own disk. The sum cannot be guessed; that as many
# processors as there are ran it, needs their interrupts.
SCRIPT = """
grep -q hypervisor /proc/cpuinfo && echo "clock=$(cat \\
    /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "cpus=$(grep -c ^processor /proc/cpuinfo)"
for cpu in $(seq 0 $(($(grep -c ^processor /proc/cpuinfo) - 1))); do
    echo "sum$cpu=$(taskset $((1 << cpu)) sha256sum /seed | cut -d ' ' -f 1)"
done
dd if=/dev/zero of=/big bs=64k count=32 2>/dev/null && sync
echo "zeros=$(sha256sum /big | cut -d ' ' -f 1)"
sleep 0.2 && echo slept=yes
"""


def vmm_words(mode):
    return ["/bin/lodge-vmm", "-M", "microvm", "-accel", f"kvm,kernel-irqchip={mode}",
            "-cpu", "max", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", "stdio"]


def linux_words(mode, cpus):
    return [*vmm_words(mode), "-smp", str(cpus), "-kernel", "/vmlinuz", "-initrd",
            "/initrd", "-append", "console=ttyS0 panic=-1 quiet lodge.script=/etc/nested.sh",
            "-drive", "if=none,id=d,format=raw,file=/root.img",
            "-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"]


def commands():
    all_of_them = {f"unit-{name}": [f"/bin/{name}_test"] for name in UNIT}
    for mode in MODES:
        for guest in GUESTS:
            all_of_them[f"{guest}-{mode}"] = [
                *vmm_words(mode), "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                "-kernel", f"/{guest}.elf"]
        for cpus in CPUS:
            all_of_them[f"linux-{mode}-{cpus}"] = linux_words(mode, cpus)
    return all_of_them


def boot(folder):
    seed = secrets.token_bytes(4096)
    l1.assets.root_image(folder / "root.img", 16,
                         {"/seed": seed, "/etc/nested.sh": SCRIPT.encode()})
    files = {f"/{g}.elf": BUILT / f"tests/guest/{g}.elf" for g in GUESTS}
    files |= {"/vmlinuz": l1.assets.kernel(), "/initrd": l1.assets.initrd(),
              "/root.img": folder / "root.img"}
    programs = {"/bin/lodge-vmm": l1.vm.LODGE_VMM.resolve(),
                **{f"/bin/{name}_test": path for name, path in UNIT.items()}}
    results = l1.run(folder, commands(), files, programs, BOOT_SECONDS)
    return {"sum": hashlib.sha256(seed).hexdigest(), "results": results}


@pytest.fixture(scope="session")
def nested(tmp_path_factory):
    """What one boot gave; the first test process boots, the others wait for it."""
    folder = tmp_path_factory.getbasetemp()
    if folder.name.startswith("popen-"):  # pytest-xdist gives each process its own
        folder = folder.parent
    done = folder / "nested.json"
    with open(folder / "nested.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            done.write_text(json.dumps(boot(folder)))
    return json.loads(done.read_text())


def result(nested, name):
    late = nested["results"].get(l1.LATE)
    assert name in nested["results"], f"the machine did not come to {name}: {late}"
    code, output = nested["results"][name]
    return code, output.replace("\r", "")


@pytest.mark.parametrize("name", UNIT)
def test_unit_tests_of_the_accelerator_pass_and_none_is_skipped(nested, name):
    code, output = result(nested, f"unit-{name}")
    assert code == 0 and "\nnot ok" not in output, output
    assert "# SKIP" not in output and re.search(r"^ok 1 ", output, re.M), output


def known(guest):
    nested_only = [line.split(None, 2) for line in
                   (HERE / "deviations.txt").read_text().splitlines() if line[0] != "#"]
    return ({t for g, t in test_guest.deviations() if g == guest} |
            {t for g, t, _ in nested_only if g == guest})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guest", GUESTS)
def test_bare_metal_guest(nested, guest, mode):
    code, output = result(nested, f"{guest}-{mode}")
    assert code in (test_guest.PASSED, test_guest.FAILED), output
    said = {t: test_guest.verdict(output, t)[0] for t in test_guest.tests_of(guest)}
    failed = {t for t, word in said.items() if not (word or "").startswith("ok")}
    assert failed <= known(guest), output


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("mode", MODES)
def test_debian_kernel_runs_a_script_on_its_disk(nested, mode, cpus):
    code, output = result(nested, f"linux-{mode}-{cpus}")
    values = dict(re.findall(r"^(\w+)=(\S+)", output, re.M))
    assert "lodge: user space" in output and code == 0, output
    assert values["cpus"] == str(cpus)
    assert [values[f"sum{n}"] for n in range(cpus)] == [nested["sum"]] * cpus
    assert values["zeros"] == hashlib.sha256(bytes(2 << 20)).hexdigest()
    assert values["clock"] == "kvm-clock"
    assert values["slept"] == "yes"
