"""Debian's kernel to its first line of user space: lodge-vmm against QEMU's TCG.

Wall time runs from starting the program to the moment its serial line has shown the
first line that the initramfs's init prints. There the process is stopped and its own
memory read: the private dirty memory of /proc/PID/smaps that is not guest RAM. Guest
RAM is the mapping that the program named "guest-ram" (prctl PR_SET_VMA_ANON_NAME), or
else the one mapping that is exactly as large as the guest's memory; when neither
tells it apart the benchmark refuses to guess.

Instructions per second are the program's own count (`-d stats`) over the time that the
virtual CPU was not halted; QEMU does not count them without slowing down (-icount), so
it has none.
"""
import json
import os
import pathlib
import re
import signal
import tempfile

import assets
import vm

MEMORY_MIB = 509  # an odd size, which no other mapping has
TIMEOUT = 300
LODGE, PEER = "lodge-vmm", "qemu-tcg"

# metric: (unit, how much of the sample's unit makes one, what is better)
METRICS = {
    "user_space_s": ("s", 1, "less"),
    "own_memory_bytes": ("MiB", 1 << 20, "less"),
    "instructions_per_s": ("million/s", 1e6, "more"),
}


def sides():
    return {LODGE: vm.default_vmm(), PEER: vm.QEMU}


def smaps(pid):
    """[(name, size, private dirty)] of a process's mappings, in bytes."""
    maps, head = [], re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            if match := head.match(line):
                maps.append([match[3], int(match[2], 16) - int(match[1], 16), 0])
            elif line.startswith("Private_Dirty:"):
                maps[-1][2] = int(line.split()[1]) << 10
    return maps


def own_memory(pid, ram_bytes):
    maps = smaps(pid)
    ram = [m for m in maps if "guest-ram" in m[0]]
    if not ram:
        ram = [m for m in maps if m[1] == ram_bytes]
        if len(ram) != 1:
            raise assets.AssetError(f"{len(ram)} mappings are as large as guest RAM: "
                                    f"cannot tell what is the process's own memory")
    return sum(m[2] for m in maps) - sum(m[2] for m in ram)


def instructions_per_s(stats):
    """Guest instructions in a second in which the virtual CPU was not halted."""
    halted = stats["exits"]["hlt"]["ns"]
    return stats["insns"] / ((stats["wall-ns"] - halted) / 1e9)


def sample(side):
    program = sides()[side]
    if not os.access(program, os.X_OK):
        raise assets.AssetError(f"no program {program}")
    with tempfile.TemporaryDirectory(dir=assets.GUEST, prefix="bench-") as folder:
        disk = assets.copy_image(assets.root_image(), f"{folder}/disk.img")
        stats = pathlib.Path(folder, "stats.json")
        extra = [] if vm.is_qemu(program) else ["-d", "stats", "-D", str(stats)]
        argv = vm.vm_argv(program, kernel=assets.kernel(), initrd=assets.initrd(),
                          append="console=ttyS0 panic=-1", disks=[disk],
                          memory=f"{MEMORY_MIB}M", extra=extra)
        with vm.Vm(argv) as guest:
            seconds = guest.wait_for(vm.USER_SPACE, TIMEOUT)
            os.kill(guest.pid, signal.SIGSTOP)
            memory = own_memory(guest.pid, MEMORY_MIB << 20)
            os.kill(guest.pid, signal.SIGCONT)
            guest.process.terminate()
            guest.process.wait(TIMEOUT)
        rate = instructions_per_s(json.loads(stats.read_text())) if extra else None
    return {"user_space_s": seconds, "own_memory_bytes": memory,
            "instructions_per_s": rate}


def describe(one):
    return (f"user space after {one['user_space_s']:.2f} s, "
            f"{one['own_memory_bytes'] / (1 << 20):.1f} MiB of its own")
