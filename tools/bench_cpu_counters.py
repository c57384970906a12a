"""What Lodge's software CPU counts in a workload: `./dev bench cpu --counters`.

A machine of its own for each workload ends with `-d accel`, and what the machine counts
without any workload (the boot) is taken off. So it says what a workload needs that the
translator leaves to the interpreter, page walks, flushes, and blocks that were killed.
"""
import pathlib
import re
import tempfile

import assets

# A line of `-d accel` of more than one virtual CPU adds up.
NUMBER = re.compile(r"(\d+) ([a-zA-Z][\w ]*?)(?= and \d|[,;:]|$)")
FALL_BACK = re.compile(r"(\S+) (\d+)")
LONGEST = 12  # fall-backs that are shown


def parse(text):
    """({counter: value}, {instruction: times that it was left to the interpreter})"""
    counters, left = {}, {}
    for line in re.findall(r"^bt: (.*)$", text, re.M):
        if line.startswith("left to T0: "):
            for name, count in FALL_BACK.findall(line.removeprefix("left to T0: ")):
                left[name] = left.get(name, 0) + int(count)
        elif re.match(r"translated|\d", line):
            line = re.sub(r"(cache )?\d+ of \d+ bytes|(?<=built) of \d+ insns", "",
                          line)
            line = re.sub(r"translated (\d+) blocks", r"\1 blocks translated", line)
            for count, name in NUMBER.findall(line):
                counters[name] = counters.get(name, 0) + int(count)
    return counters, left


def less(one, other):
    return {k: max(0, v - other.get(k, 0)) for k, v in one.items()}


def one_machine(make_side, commands):
    """The counters of a machine that ran @commands, and the last one's result."""
    with tempfile.TemporaryDirectory(dir=assets.GUEST, prefix="counters-") as folder:
        log = pathlib.Path(folder, "log")
        side = make_side(["-d", "accel", "-D", str(log)])
        result = None
        try:
            side.start()
            for command in commands:
                result = side.run(command)
            if side.machine:
                side.machine.process.terminate()
                side.machine.process.wait(60)
        finally:
            side.stop()
        return parse(log.read_text() if log.exists() else ""), result


def show(make_side, chosen):
    """@make_side makes a Lodge machine with more arguments."""
    boot, _ = one_machine(make_side, [])
    for w in chosen:
        (counters, left), result = one_machine(make_side, [w.command])
        counters, left = less(counters, boot[0]), less(left, boot[1])
        print(f"{w.name}: " + (f"{result.seconds:.3f} s" if result.ok else result.status))
        print("  " + ", ".join(f"{v} {k}" for k, v in counters.items() if v))
        most = sorted(left.items(), key=lambda item: -item[1])[:LONGEST]
        print("  left to T0: " + " ".join(f"{k} {v}" for k, v in most if v), flush=True)
