"""lodge-vmm -disas against objdump -d -M intel.

Instructions have the same lengths and mean the same. The two write some things in other
words; objdump_words() and lodge_words() level them out, and these are all:

  - an address in the fewest words: no "*1", no "+0x0", no "ds:" that is the default,
    brackets around one that is a number, and RIP minus something where that is meant;
  - prefixes without an effect, which objdump shows ("cs", "data16", "rex.W", "bnd"), and
    the operands and prefixes that make a NOP longer;
  - string instructions with their size in the name ("stosd"), moves of 8-byte numbers
    without a name of their own ("movabs"), "st(0)" for "st", shifts by 0x1 for 1;
  - FINIT is FWAIT and FNINIT;
  - no size for PREFETCH and CLFLUSH, a size for LGDT and INVPCID, the 16 bits that are
    meant of a selector's register, "pushfq" and its like by the operand size.

What the processor models do not have is "(bad)": AVX-512, transactions, enclaves, memory
encryption.
"""
import functools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import assets  # noqa: E402
import unpack_vmlinux  # noqa: E402
import vm  # noqa: E402

LINE = re.compile(r" *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *(?:\t(.*))?$")
NOT_THERE = re.compile(r"\bk[0-7]\b|^(xend|xbegin|xabort|xtest|encl[su]|pvalidate|rmpadjust|"
                       r"rmpupdate|psmash|tpause|umwait|umonitor|tilerelease|tdcall|seamcall|wrmsrns|enqcmds?)\b")


def disassemble(argv):
    """{address: [length, text, first byte]} of what a disassembler prints."""
    found, last = {}, None
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, errors="replace") as p:
        for line in p.stdout:
            match = LINE.match(line.rstrip("\n"))
            if match and match[3] is None:
                found[last][0] += len(match[2].split())
            elif match:
                last = int(match[1], 16)
                found[last] = [len(match[2].split()), match[3], match[2][:2]]
    assert p.returncode == 0
    return found


def level(text):
    text = re.sub(r"<.*| *#.*", "", text).lower().strip()
    return re.sub(r"\s+", " ", text).replace(", ", ",")


@functools.lru_cache(None)
def objdump_words(text):
    text = re.sub(r"^([ls][gi]dt) ", r"\1", level(text))
    text = re.sub(r"^((cs|ds|es|ss|fs|gs|data16|addr32|bnd|notrack|repz|repnz|xacquire|"
                  r"xrelease|rex(\.[wrxb]+)?) )+(?!cmps|scas)", "", text)
    if re.match(r"nop|xchg (ax,ax|eax,eax|rax,rax)$", text):
        return "nop"
    text = text.replace("*1", "").replace("+0x0]", "]").replace("+riz", "")
    text = re.sub(r"\b(ds|ss|es|cs|fs|gs):(0x[0-9a-f]+)", r"\1:[\2]", text)
    text = re.sub(r"\b(ds|ss):\[", "[", text)
    text = re.sub(r"\[rip\+0x(f{4}[0-9a-f]{12})\]",
                  lambda m: f"[rip-{2**64 - int(m[1], 16):#x}]", text)
    text = text.replace("movabs ", "mov ").replace("repz ", "repe ").replace("repnz ", "repne ")
    text = re.sub(r"\bst\b(?!\()", "st(0)", text)
    text = re.sub(r"^((sh|sa|ro|rc)[lr] .*,)1$", r"\g<1>0x1", text)
    text = re.sub(r"^(prefetch\w+|clflush\w*|clwb|invlpg) byte ptr", r"\1", text)
    text = re.sub(r"^(jmp|call) fword ptr", r"\1 far fword ptr", text)
    text = re.sub(r"^(mov [c-gs]s|lar \w+|lsl \w+|mov [c-gs]s,|verr|verw|lldt|ltr|lmsw)"
                  r"([, ])(?:[er]?([a-ds][xpi])|(r\d+)[wd]?)$", r"\1\2\3\4", text)
    text = re.sub(r"^(pushf|popf|sysret|sysexit)[dlq]?$", r"\1", text)
    text = text.replace("oword ptr", "xmmword ptr").replace("vmgexit", "vmmcall")
    text = "fwait" if text == "finit" else text
    return re.sub(r"^(j\w+|call|loop\w*) ([0-9a-f]+)$", r"\1 0x\2", text)


@functools.lru_cache(None)
def lodge_words(text):
    text = level(text)
    if text.startswith("nop"):
        return "nop"
    text = re.sub(r"\b(ds|ss):\[", "[", text)
    text = re.sub(r"^([ls][gi]dt|invpcid \w+,)(?: ?\w+ ptr )", r"\1", text)
    text = re.sub(r"^(pushf|popf|sysret|sysexit)[dq]?$", r"\1", text)
    text = re.sub(r"^(mov [c-gs]s,r\d+)w$", r"\1", text)
    if "xmm" not in text:
        text = re.sub(r"(stos|lods|scas|movs|cmps|ins|outs)[bwdq] ", r"\1 ", text)
    return text


def compare(path):
    """(number of instructions, those that differ). What follows one that is not there is
    decoded from another byte on, for a few instructions."""
    theirs = disassemble(["objdump", "-d", "-M", "intel", str(path)])
    ours = disassemble([str(vm.default_vmm()), "-disas", str(path)])
    wrong, astray = [], 0
    for address, (length, text, first) in theirs.items():
        n, mine, _ = ours.get(address, (0, "nothing", ""))
        evex = first == "62"
        if evex or NOT_THERE.search(text) or n == 0 and address < astray:
            astray = address + length + 16
        elif ((n != length and text != "finit" or lodge_words(mine) != objdump_words(text)) and
              address > astray):
            wrong.append(f"{address:x}: {text} | {mine}")
    return len(theirs), wrong


def test_libc_is_disassembled_as_objdump_does():
    libc = next(pathlib.Path("/lib").glob("*-linux-gnu/libc.so.6"))

    total, wrong = compare(libc)

    assert total > 100_000
    assert not wrong, "\n".join(wrong[:50])


@pytest.mark.long
def test_the_kernel_is_disassembled_as_objdump_does(tmp_path):
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(unpack_vmlinux.unpack(assets.kernel().read_bytes()))

    total, wrong = compare(vmlinux)

    assert total > 1_000_000
    assert not wrong, "\n".join(wrong[:50])


def disas(*words):
    return subprocess.run([str(vm.default_vmm()), "-disas", ",".join(words)],
                          capture_output=True, text=True, timeout=vm.patience(60))


def test_a_raw_file_is_what_the_options_say(tmp_path):
    raw = tmp_path / "boot,sector"
    raw.write_bytes(bytes.fromhex("ffff b8001c 8ed8 0f01161e7c eafe7d0000 06"))
    name = str(raw).replace(",", ",,")

    done = disas(name, "bits=16", "addr=0x7c00", "offset=2", "len=15")

    code = [line.split("\t")[0::2] for line in done.stdout.splitlines() if "\t" in line]
    assert code == [["    7c00:", "mov ax, 0x1c00"], ["    7c03:", "mov ds, ax"],
                    ["    7c05:", "lgdt fword ptr [0x7c1e]"],
                    ["    7c0a:", "jmp far 0x0:0x7dfe"]]
    assert done.returncode == 0 and not done.stderr
    assert disas(name, "bits=16", "offset=19").returncode == 1
    assert "bits=8: 16, 32 or 64" in disas(name, "bits=8").stderr
    assert "did you mean 'offset'" in disas(name, "ofset=1").stderr


def test_symbols_of_a_program_are_labels(tmp_path):
    source, program = tmp_path / "a.s", tmp_path / "a.o"
    source.write_text(".text\n.globl one\none: call two\n ret\ntwo: mov $1,%eax\n ret\n")
    subprocess.run(["as", "-o", program, source], check=True)
    subprocess.run(["ld", "-e", "one", "-Ttext=0x401000", "-o", tmp_path / "a", program],
                   check=True)

    text = disas(str(tmp_path / "a")).stdout

    assert "Disassembly of section .text:" in text
    assert "0000000000401000 <one>:\n  401000:\te8 01 00 00 00       \tcall 0x401006 <two>" in text
    assert "0000000000401006 <two>:" in text
