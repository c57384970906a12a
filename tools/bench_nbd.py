"""4 KiB requests to an NBD server: lodge-nbd and qemu-nbd, by fio's nbd engine.

A raw image in the page cache, one connection on a UNIX socket, random reads at several
depths and random writes. CPU is the server's own, user and system; fio's is not counted.
"""
import json
import os
import pathlib
import subprocess
import tempfile
import time

import vm

SIZE_MIB = 256
SECONDS = 3
TIMEOUT = 120
JOBS = {"read-1": ("randread", 1), "read-4": ("randread", 4), "read-16": ("randread", 16),
        "read-64": ("randread", 64), "write-16": ("randwrite", 16)}
SERVERS = {"lodge-nbd": [str(vm.PROGRAMS / "lodge-nbd")], "qemu-nbd": ["qemu-nbd"],
           "qemu-nbd-io_uring": ["qemu-nbd", "--aio=io_uring"]}

METRICS = {}
for name in JOBS:
    METRICS[f"{name} iops"] = ("k/s", 1000, "more")
    METRICS[f"{name} cpu"] = ("us per request", 1, "less")


def sides():
    return list(SERVERS)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fio(uri, kind, depth):
    """(requests done, requests per second)"""
    done = subprocess.run(
        ["fio", "--name=nbd", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", "--bs=4k",
         f"--iodepth={depth}", f"--runtime={SECONDS}", "--time_based", f"--size={SIZE_MIB}M",
         "--output-format=json"], stdout=subprocess.PIPE, check=True, timeout=TIMEOUT)
    text = done.stdout.decode()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    part = job["write" if kind == "randwrite" else "read"]
    return part["total_ios"], part["iops"]


def start(side, folder, image):
    socket, pid_file = folder / "s", folder / "pid"
    server = subprocess.Popen([*SERVERS[side], "-t", "-k", socket, f"--pid-file={pid_file}",
                               "-f", "raw", image], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT
    while not pid_file.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise vm.Timeout(f"{side} does not start")
        time.sleep(0.01)
    return server, f"nbd+unix:///?socket={socket}"


def sample(side):
    result = {}
    with tempfile.TemporaryDirectory(prefix="lodge-bench-") as name:
        folder = pathlib.Path(name)
        image = folder / "a.raw"
        block = os.urandom(1 << 20)
        with open(image, "wb") as f:
            for _ in range(SIZE_MIB):
                f.write(block)
        server, uri = start(side, folder, image)
        try:
            for job, (kind, depth) in JOBS.items():
                before = cpu_seconds(server.pid)
                requests, iops = fio(uri, kind, depth)
                cpu = cpu_seconds(server.pid) - before
                result[f"{job} iops"] = iops
                result[f"{job} cpu"] = cpu / requests * 1e6
        finally:
            server.terminate()
            server.wait(TIMEOUT)
    return result


def describe(one):
    return ", ".join(f"{job} {one[f'{job} iops'] / 1000:.1f}k/s {one[f'{job} cpu']:.1f} us"
                     for job in JOBS)
