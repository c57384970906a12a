"""No handler of the interpreter calls the next one: it jumps there.

A handler with a local whose address escapes makes a call of what should be a tail
call, and a guest's loop over that instruction runs the host out of stack (t0.h). Such
a step to the next op is an indirect call through the first word of a register.

usage: tail_calls_test.py OBJDUMP LIBRARY...
"""

import re
import subprocess
import sys

objdump, *libraries = sys.argv[1:]
text = subprocess.run([objdump, "-d", "--no-show-raw-insn", *libraries],
                      check=True, capture_output=True, text=True).stdout
function, handlers, bad = "", 0, []
for line in text.splitlines():
    start = re.match(r"[0-9a-f]+ <(.+)>:", line)
    if start:
        function = start[1]
    elif re.search(r"\tjmp +\*(0x0)?\(%r|\tjmp +\*%r", line):
        handlers += 1
    elif re.search(r"\tcall +\*(0x0)?\(%r", line) and function not in ("t0_fill_block", "enter_smm"):
        bad.append(f"{function}: {line.strip()}")
print(f"1..1\n# {handlers} jumps to a next op")
for b in bad:
    print("#", b)
print("ok 1" if handlers > 500 and not bad else "not ok 1", "- tail calls")
sys.exit(bool(bad))
