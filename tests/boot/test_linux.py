"""Debian's own kernel on the machine: processor models, memory sizes, disks, clocks."""
import hashlib
import os
import time
import zlib

import pytest

import assets

KIB, MIB = 1 << 10, 1 << 20

REPORT = """
exec 3>/report
say() { echo "$1=$2" >&3; }
say mem_kib "$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
say flags "$(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1)"
say cpus "$(nproc)"
say time "$(date +%s)"
say rng "$(cat /sys/class/misc/hw_random/rng_current)"
say random "$(head -c 32 /dev/hwrng | sha256sum | cut -d ' ' -f 1)"
say clock "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
say read "$(sha256sum /data/in | cut -d ' ' -f 1)"
tr '\\000-\\377' '\\200-\\377\\000-\\177' </data/in >/data/out
sync
echo 3 >/proc/sys/vm/drop_caches
say wrote "$(sha256sum /data/out | cut -d ' ' -f 1)"
"""


# The software CPU's tiers; in the second one all code is translated at once.
TIERS = pytest.mark.parametrize("accel", ["bt,tier=0", "bt,tier=1,heat=1"])


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("memory, least_mib, most_mib",
                         [("128M", 60, 128), ("4G", 3600, 4096)])
@pytest.mark.parametrize("cpu", ["qemu64", "max"])
@TIERS
def test_kernel_runs_user_space_and_keeps_its_disk_whole(make_guest, is_lodge, memory, least_mib,
                                                         most_mib, cpu, accel):
    data = os.urandom(1 * MIB)
    turned = bytes((b + 128) & 255 for b in data)
    guest = make_guest(REPORT, {"/data/in": data})

    started = time.time()
    guest.finish("-no-reboot", memory=memory, cpu=cpu, accel=accel if is_lodge else None)
    finished = time.time()

    report = guest.report()
    assert least_mib < int(report["mem_kib"]) / KIB < most_mib
    assert report["cpus"] == "1"
    assert {"lm", "sse2", "nx"} <= set(report["flags"].split())
    assert ("sse4_2" in report["flags"].split()) == (cpu == "max")
    assert started - 20 < int(report["time"]) < finished + 20
    assert report["rng"].startswith("virtio_rng")
    assert report["random"] != sha(b"") and len(report["random"]) == 64
    assert report["read"] == sha(data)
    assert report["wrote"] == sha(turned)
    assert guest.read("/data/out") == turned


@TIERS
def test_two_processors_work_at_the_same_time(make_guest, is_lodge, accel):
    data = os.urandom(4 * MIB)
    script = """
    nproc >/cpus
    for cpu in 0 1; do
        taskset -c $cpu sha256sum /data/in >/sum$cpu &
    done
    wait
    """
    guest = make_guest(script, {"/data/in": data})

    guest.finish("-no-reboot", "-smp", "2", accel=accel if is_lodge else None)

    assert guest.read("/cpus") == b"2\n"
    for cpu in (0, 1):
        assert guest.read(f"/sum{cpu}").decode().split()[0] == sha(data)


def test_root_disk_may_be_larger_than_memory(make_guest, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(os.urandom(160 * MIB))
    script = "crc32 </data/big >/sum; cp /data/big /data/copy; sync"
    guest = make_guest(script, {"/data/big": big}, size_mib=1024)

    guest.finish("-no-reboot", memory="128M")

    assert guest.read("/sum").decode().strip() == f"{zlib.crc32(big.read_bytes()):08x}"
    assert sha(guest.read("/data/copy")) == sha(big.read_bytes())


DISKS = """
for disk in /dev/vd?; do
    name=$(head -c 4 $disk)
    case $name in
    DSK?)
        serial=$(cat /sys/block/${disk#/dev/}/serial)
        size=$(cat /sys/block/${disk#/dev/}/size)
        sum=$(tail -c +4097 $disk | sha256sum | cut -d ' ' -f 1)
        echo "$name=$serial $size $sum" >>/report
        # Odd places and lengths, through the page cache and past it.
        printf 'written by the guest' | dd of=$disk bs=1 seek=5001 conv=notrunc
        dd if=$disk of=$disk bs=4096 skip=2 seek=16 count=8 conv=notrunc oflag=direct
        ;;
    esac
done 2>/dev/null
sync
"""


def test_every_cache_mode_and_way_of_io_keeps_the_bytes(make_guest, tmp_path):
    modes = ["cache=writeback,aio=threads", "cache=none,aio=io_uring",
             "cache=writethrough,aio=io_uring", "cache=unsafe,aio=threads"]
    disks, wanted, drives = {}, {}, []
    for number, mode in enumerate(modes):
        name, path = f"DSK{number}", tmp_path / f"disk{number}.img"
        data = name.encode() + os.urandom(256 * KIB * (number + 1) - 4)
        path.write_bytes(data)
        disks[name] = path
        wanted[name] = (f"serial{number} {len(data) // 512} {sha(data[4096:])}", data)
        drives += ["-drive", f"if=none,id=d{number},format=raw,file={path},{mode}",
                   "-device", f"virtio-blk-device,drive=d{number},serial=serial{number}"]
    guest = make_guest(DISKS)

    guest.finish("-no-reboot", *drives)

    report = guest.report()
    for name, path in disks.items():
        says, data = wanted[name]
        data = bytearray(data)
        data[5001:5021] = b"written by the guest"
        data[65536:65536 + 32768] = data[8192:8192 + 32768]
        assert report[name] == says
        assert path.read_bytes() == bytes(data), f"{name} on the host"


def test_read_only_disk_is_read_only_in_the_guest(make_guest, tmp_path):
    target = tmp_path / "out.img"
    target.write_bytes(b"DSKW" + bytes(64 * KIB - 4))
    script = """
    out=/dev/vda; [ "$(head -c 4 $out)" = DSKW ] || out=/dev/vdb
    root=/dev/vda; [ $out = /dev/vdb ] || root=/dev/vdb
    {
        echo "ro=$(cat /sys/block/${root#/dev/}/ro)"
        dd if=/dev/zero of=$root bs=512 count=1 2>/dev/null && echo wrote=disk
        touch /file 2>/dev/null && echo wrote=file
        echo end=here
    } >/tmp/report
    dd if=/tmp/report of=$out bs=4096 seek=1 conv=notrunc,sync
    """
    guest = make_guest(script)
    before = sha(guest.image.read_bytes())

    guest.finish("-no-reboot", append="ro", root={"readonly": "on"}, disks=[target])

    assert sha(guest.image.read_bytes()) == before
    lines = target.read_bytes()[4096:].split(b"\0")[0].decode().split()
    assert lines == ["ro=1", "end=here"]


PROGRAMS_32 = """
b=/bin32/busybox
{
    echo "sum=$($b sha256sum </data/in | cut -d ' ' -f 1)"
    echo "whole=$($b gzip -c </data/in | $b gzip -dc | $b sha256sum | cut -d ' ' -f 1)"
    echo "sorted=$($b od -An -v -tx1 -w4 </data/in | $b sort | $b md5sum | cut -d ' ' -f 1)"
    echo "awk=$($b awk 'BEGIN { for (i = 1; i <= 2000; i++) s += i * i / (i % 7 + 1.5);
                          printf "%.3f", s }')"
    echo "class=$(head -c 5 $b | tail -c 1 | $b od -An -tu1 | tr -d ' ')"
} >/report
"""


@TIERS
def test_32_bit_programs_compute_right_under_a_64_bit_kernel(make_guest, is_lodge, accel):
    data = os.urandom(64 * KIB)
    lines = sorted(f" {data[i]:02x} {data[i + 1]:02x} {data[i + 2]:02x} {data[i + 3]:02x}\n"
                   for i in range(0, len(data), 4))
    guest = make_guest(PROGRAMS_32, {"/data/in": data,
                                     "/bin32/busybox": assets.busybox("i386")})

    guest.finish("-no-reboot", accel=accel if is_lodge else None)

    report = guest.report()
    assert report["class"] == "1"  # ELFCLASS32
    assert report["sum"] == report["whole"] == sha(data)
    assert report["sorted"] == hashlib.md5("".join(lines).encode()).hexdigest()
    total = sum(i * i / (i % 7 + 1.5) for i in range(1, 2001))
    assert report["awk"] == f"{total:.3f}"
