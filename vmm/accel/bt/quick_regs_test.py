"""What translations call with the guest's vector registers in the host's leaves them alone.

No code of the library has a vector or x87 register in it, and what is called from the
functions that the glue calls, directly and not, is in the library (t1_glue.c).

usage: quick_regs_test.py OBJDUMP LIBRARY FUNCTION...
"""

import re
import subprocess
import sys

objdump, library, *roots = sys.argv[1:]
text = subprocess.run([objdump, "-dr", "--no-show-raw-insn", library],
                      check=True, capture_output=True, text=True).stdout
function, calls, bad = "", {}, []
for line in text.splitlines():
    start = re.match(r"[0-9a-f]+ <(.+)>:", line)
    if start:
        function = start[1]
        calls.setdefault(function, set())
    elif re.search(r"%([xyz]mm|mm\d|st\b)|\tcall +\*", line):
        bad.append(f"{function}: {line.strip()}")
    elif found := re.search(r"R_X86_64_PLT32\s+(\w[\w.]*)", line):
        calls[function].add(found[1])
    elif found := re.search(r"\t(?:call|j\w+) +[0-9a-f]+ <([^+>]+)", line):
        calls[function].add(found[1])
reached, new = set(), set(roots)
while new:
    reached |= new
    new = set().union(*(calls.get(f, ()) for f in new)) - reached
bad += [f"{f} is not in the library" for f in reached if f not in calls]
print(f"1..1\n# {len(reached)} functions")
for b in bad:
    print("#", b)
print("not ok 1" if bad else "ok 1", "- no vector registers")
sys.exit(bool(bad))
