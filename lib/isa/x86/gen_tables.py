#!/usr/bin/env python3
"""Make tables.c, the decoder's rows and index, from the opcode tables.

usage: gen_tables.py OUTPUT.c INPUT.tab...

One line is one opcode form:

    MNEMONIC encoding ; operands ; attributes          # comment

Braces list alternatives, all braces of a line step together:
"{ADD,OR} {00,08} /r ; Eb+ Gb" is two rows. Rows of one opcode are tried in the
order they are written.

encoding    [VEX] [NP 66 F3 F2, or several as NP|66] [0F 0F38 0F3A] OPCODE and
  +r +cc    register or condition in the low bits of the opcode
  /r /0../7 has ModRM; with that value in ModRM.reg
  =C1       has ModRM of exactly that value
  mem reg   ModRM.mod is not 3, is 3
  W0 W1 L0 L1 B0          REX.W or VEX.W, VEX.L, REX.B
  i64 o64   not in 64-bit mode, only in 64-bit mode
  nolock lockonly
operands    encoding and width as in opspec.h, then = written, + read and written,
            nothing: read
attributes  FEATURE, cpl0 iopl umip own (privilege), end lock align unal stack maybe
            impl fpe prot fpu (properties), d64 f64 sz=W (operand size), r= w= u= ir=
            iw= (see effects.tab), vsib=W, v vi v1 vl vH vfeat= vW0 vW1 (VEX twin, see
            sse.tab)
%class and %feat hold until the next one. effects.tab has its own format, told there.
"""

import re
import sys

FLAGS = dict(o="OF", s="SF", z="ZF", a="AF", p="PF", c="CF", d="DF", i="IF", t="TF",
             n="NT", l="IOPL", R="RF", V="VM", x="AC", f="VIF", g="VIP", y="ID")
GPRS = dict(a="RAX", c="RCX", d="RDX", b="RBX", s="RSP", B="RBP", S="RSI", D="RDI",
            E="R11")
MAPS = ["ONE", "0F", "0F38", "0F3A", "VEX1", "VEX2", "VEX3"]
PREFIXES = ["NP", "66", "F3", "F2"]
PRIVS = {"cpl0": "CPL0", "iopl": "IOPL", "umip": "UMIP", "own": "OWN"}
PROPS = {"end": "END", "lock": "LOCK", "align": "ALIGN", "stack": "STACK",
         "maybe": "FL_MAYBE", "impl": "IMPL_MEM", "fpe": "FXU", "prot": "PROT",
         "fpu": "FPU", "mmxpart": "MMX"}
FIXED = {"AL": ("RAX", "b"), "AX": ("RAX", "w"), "rAXv": ("RAX", "v"),
         "rAXz": ("RAX", "z"), "CL": ("RCX", "b"), "DX": ("RDX", "w"),
         "1": ("ONE", "b"), "ST0": ("ST0", "ten"), "STi": ("STI", "ten"),
         "XMM0x": ("XMM0", "x"), "Isb": ("IS", "b"), "Isz": ("IS", "z"),
         "I2b": ("I2", "b"), "Az": ("FAR", "z"), "C8t": ("C8", "t")}
FIXED.update({s: (s, "w") for s in ("ES", "CS", "SS", "DS", "FS", "GS")})
OPERAND = re.compile(r"^([EGMRBZIJOSCDXYPQNVWUHL])"
                     r"(_|b|w|dq|dup|d|qq|q|ten|v|z|y|t|a|s|p|bnd|x|h|f|env|e|fsave)$")
MODES = ["16", "32", "64"]


class Row:
    def __init__(self):
        self.prefixes = list(PREFIXES)
        self.map = 0
        self.span = 1
        self.modrm = False
        self.mask = self.value = 0
        self.w = ["W0", "W1"]
        self.l = ["L0", "L1"]
        self.b = ["B0", "B1"]
        self.mod = ["MEM", "REG"]
        self.modes = list(MODES)
        self.lock = ["LOCK", "NOLOCK"]
        self.operands = []
        self.props = set()
        self.priv = "ANY"
        self.feat = "NONE"
        self.size = None
        self.effects = {}

    def copy(self):
        new = Row()
        for key, value in self.__dict__.items():
            if isinstance(value, (list, set, dict)):
                value = value.copy()
            setattr(new, key, value)
        return new

    def allow(self):
        return (self.prefixes + self.w + self.l + self.b + self.mod + self.modes
                + self.lock)


def expand(line):
    groups = re.findall(r"\{([^}]*)\}", line)
    if not groups:
        return [line]
    lists = [g.split(",") for g in groups]
    n = len(lists[0])
    if any(len(l) != n for l in lists):
        raise ValueError("braces of different length")
    out = []
    for i in range(n):
        it = iter(lists)
        out.append(re.sub(r"\{[^}]*\}", lambda m: next(it)[i], line))
    return out


def parse_encoding(row, text):
    words = text.split()
    row.op = words.pop(0)
    vex = bool(words) and words[0] == "VEX"
    if vex:
        words.pop(0)
    if len(words) > 1 and all(p in PREFIXES for p in words[0].split("|")) and \
            (words[0] == "NP" or "|" in words[0] or re.match("^[0-9A-F]", words[1])):
        row.prefixes = words.pop(0).split("|")
    if words[0] in MAPS[1:4]:
        row.map = MAPS.index(words.pop(0)) + (3 if vex else 0)
    row.opcode = int(words.pop(0), 16)
    for w in words:
        if w == "+r":
            row.span = 8
        elif w == "+cc":
            row.span = 16
        elif w == "/r":
            row.modrm = True
        elif re.match("^/[0-7]$", w):
            row.modrm, row.mask, row.value = True, 0x38, int(w[1]) << 3
        elif w[0] == "=":
            row.modrm, row.mask, row.value = True, 0xff, int(w[1:], 16)
            row.mod = ["REG"]
        elif w in ("mem", "reg"):
            row.mod = [w.upper()]
        elif w in ("W0", "W1"):
            row.w = [w]
        elif w in ("L0", "L1"):
            row.l = [w]
        elif w in ("B0", "B1"):
            row.b = [w]
        elif w == "i64":
            row.modes = ["16", "32"]
        elif w == "o64":
            row.modes = ["64"]
        elif w in ("nolock", "lockonly"):
            row.lock = [w[:4].upper() if w == "lockonly" else "NOLOCK"]
        else:
            raise ValueError("unknown encoding word " + w)


def parse_operand(word):
    access = "R"
    if word[-1] in "=+":
        access = {"=": "W", "+": "RW"}[word[-1]]
        word = word[:-1]
    if word in FIXED:
        enc, width = FIXED[word]
    else:
        m = OPERAND.match(word)
        if not m:
            raise ValueError("unknown operand " + word)
        enc, width = m.groups()
    if width == "_" and access == "R":
        access = "0" if word != "M_" else "R0"
    return [enc, width, access]


def parse_attribute(row, word, twin):
    if word in PRIVS:
        row.priv = PRIVS[word]
    elif word in PROPS:
        row.props.add(PROPS[word])
    elif word in ("d64", "f64", "unal"):
        row.props.add("UNALIGNED") if word == "unal" else None
        row.size = {"d64": "d64", "f64": "t"}.get(word, row.size)
    elif word.startswith("sz="):
        row.size = word[3:]
    elif word.startswith("vsib="):
        row.props.add("VSIB" if word[5:] == "x" else "VSIB_HALF")
    elif re.match("^(r|w|u|ir|iw)=", word):
        key, _, value = word.partition("=")
        row.effects[key] = row.effects.get(key, "") + value
    elif word in ("v", "vi", "v1", "vl", "vH", "vW0", "vW1") or word[:6] == "vfeat=":
        twin.append(word)
    elif re.match("^[A-Z0-9_]+$", word):
        row.feat = word
    else:
        raise ValueError("unknown attribute " + word)


def finish(row, cls, effects):
    """What follows from the operands and from the mnemonic's effects."""
    row.cls = cls
    if row.size is None:
        if row.operands and row.operands[0][1] in ("b", "y", "t"):
            row.size = row.operands[0][1]
        else:
            row.size = "y" if cls in ("sse", "avx", "mmx") else "v"
    for word in effects.get(row.op, []):
        if word == "maybe":
            row.props.add("FL_MAYBE")
        else:
            key, value = word.split("=")
            row.effects[key] = row.effects.get(key, "") + value
    if cls == "branch":
        row.props.add("END")
    if "STACK" in row.props:
        for key in ("ir", "iw"):
            row.effects[key] = row.effects.get(key, "") + "s"
    if cls == "string":
        row.props.add("FL_MAYBE")
    for enc, _, _ in row.operands:
        for key in ("ir", "iw"):
            if enc in "XY":
                row.effects[key] = row.effects.get(key, "") + {"X": "S", "Y": "D"}[enc]
    if cls == "sse" and not row.props & {"UNALIGNED", "ALIGN"} and \
            any(e in "WM" and w in ("x", "dq") for e, w, _ in row.operands) and \
            row.op not in ("MOVHPS", "MOVHPD"):
        row.props.add("SSEMEM")
    if cls == "x87" and row.op not in ("FNINIT", "FNCLEX", "FNSTSW", "FNSTCW", "FNSAVE",
                                       "FNSTENV", "FNENI", "FNDISI", "FNSETPM"):
        row.props.add("FXU")
    if cls in ("mmx", "x87", "sse", "avx"):
        row.props.add("FPU")
    if cls == "mmx" or any(e in "PQN" for e, _, _ in row.operands):
        row.props.add("MMX")
    if cls == "avx" or row.map >= 4:
        row.props.add("PROT")
    return row


def vex_twins(row, words, cls, effects):
    t = row.copy()
    t.op = "V" + row.op
    t.map += 3
    t.effects = {k: v for k, v in row.effects.items()}
    t.props -= {"UNALIGNED", "SSEMEM", "FL_MAYBE"}
    dst = t.operands[0]
    if dst[2] == "RW" or "vH" in words:
        if dst[0] == "U" and dst[2] == "RW":     # shifts: vvvv is the destination
            t.operands[0:1] = [["H", dst[1], "W"], ["U", dst[1], "R"]]
        else:
            whole = "dq" if dst[1] in ("d", "q", "dq") else "x"
            t.operands[0:1] = [[dst[0], whole, "W"], ["H", whole, "R"]]
    if "vW0" in words or "vW1" in words:
        t.w = ["W0" if "vW0" in words else "W1"]
    vfeat = [w[6:] for w in words if w[:6] == "vfeat="]
    base = row.feat if row.feat in ("AES", "PCLMULQDQ", "GFNI") else "AVX"
    t.feat = base
    if "v1" in words:
        t.l = ["L0"]
    out = [t]
    if "vi" in words or vfeat:
        t.l = ["L0"]
        wide = t.copy()
        wide.l, wide.feat = ["L1"], vfeat[0] if vfeat else "AVX2"
        out.append(wide)
    if t.op == "VMOVD":
        also = t.copy()     # VEX.W has no effect on it out of 64-bit mode
        also.w, also.modes = ["W1"], ["16", "32"]
        out.append(also)
    if t.w == ["W1"] and any(o[:2] == ["E", "q"] for o in t.operands):
        t.modes = ["64"]
    return [finish(r, "avx", effects) for r in out]


def parse_effects(path):
    effects = {}
    for line in open(path):
        line = line.split("#")[0].strip()
        if line:
            ops, _, words = line.partition(" : ")
            for op in ops.split():
                effects.setdefault(op, []).extend(words.split())
    return effects


def parse(path, effects):
    rows, cls, feat = [], None, "NONE"
    for nb, full in enumerate(open(path), 1):
        line = full.split("#")[0].strip()
        if not line:
            continue
        if line[0] == "%":
            key, value = line[1:].split()
            if key == "class":
                cls, feat = value, "NONE"
            else:
                feat = value
            continue
        try:
            for one in expand(line):
                part = [p.strip() for p in one.split(";")] + ["", ""]
                row, twin = Row(), []
                row.feat = feat
                parse_encoding(row, part[0])
                row.operands = [parse_operand(w) for w in part[1].split()]
                for word in part[2].split():
                    parse_attribute(row, word, twin)
                twins = vex_twins(row, twin, cls, effects) if twin else []
                rows.append(finish(row, cls, effects))
                rows.extend(twins)
        except (ValueError, IndexError) as e:
            sys.exit("%s:%d: %s" % (path, nb, e))
    return rows


def mask(prefix, letters, names):
    return "|".join(prefix + names[c] for c in sorted(set(letters))) or "0"


def gpr_mask(letters):
    return "|".join("1u << X86_" + GPRS[c] for c in sorted(set(letters))) or "0"


ACCESS = {"R": "X86_ACC_R", "W": "X86_ACC_W", "RW": "X86_ACC_R | X86_ACC_W", "0": "0",
          "R0": "0"}


def emit_row(row):
    # FXSAVE areas and the like are read although they have no fixed size.
    for o in row.operands:
        if o[2] == "R0" and row.op in ("FXRSTOR", "XRSTOR", "XRSTORS", "MOVDIR64B"):
            o[2] = "R"
    eff = row.effects
    ops = ", ".join("{X86_ENC_%s, X86_WIDTH_%s, %s}" % (e, w, ACCESS[a])
                    for e, w, a in row.operands)
    props = row.props - {"UNALIGNED"}
    fields = [
        ".op = X86_OP_" + row.op, ".map = X86_MAP_" + MAPS[row.map],
        ".opcode = 0x%02x" % row.opcode, ".nb_opcode = %d" % row.span,
        ".has_modrm = %d" % row.modrm, ".modrm_mask = 0x%02x" % row.mask,
        ".modrm = 0x%02x" % row.value,
        ".allow = " + "|".join("X86_A_" + a for a in row.allow()),
        ".opnd = {%s}" % (ops or "{0, 0, 0}"), ".nb_opnds = %d" % len(row.operands),
        ".size = X86_WIDTH_" + row.size, ".feat = X86_FEAT_" + row.feat,
        ".cls = X86_CLASS_" + row.cls.upper(), ".priv = X86_PRIV_" + row.priv,
        ".props = " + ("|".join("X86_D_" + p for p in sorted(props)) or "0"),
        ".flags_read = " + mask("X86_FL_", eff.get("r", ""), FLAGS),
        ".flags_written = " + mask("X86_FL_", eff.get("w", ""), FLAGS),
        ".flags_undef = " + mask("X86_FL_", eff.get("u", ""), FLAGS),
        ".gpr_read = " + gpr_mask(eff.get("ir", "")),
        ".gpr_written = " + gpr_mask(eff.get("iw", "")),
    ]
    return "    {" + ", ".join(fields) + "},\n"


def is_plain(rows, ids):
    """One row, nothing about prefixes, ModRM or mode to check."""
    r = rows[ids[0]]
    return len(ids) == 1 and len(r.allow()) == 17 and not r.mask


def make_index(rows):
    """(list of row numbers, slots per map, subslots)"""
    row_list, subslots = [], []
    slots = [[(0, 0, 0)] * 256 for _ in MAPS]
    for m in range(len(MAPS)):
        for opcode in range(256):
            ids = [i for i, r in enumerate(rows)
                   if r.map == m and r.opcode <= opcode < r.opcode + r.span]
            if not ids:
                continue
            modrm = {rows[i].modrm for i in ids}
            if len(modrm) != 1:
                sys.exit("map %s opcode %02X: rows with and without ModRM"
                         % (MAPS[m], opcode))
            flags = 1 if modrm.pop() else 0
            if not flags or not any(rows[i].mask for i in ids):
                flags |= 4 if is_plain(rows, ids) else 0
                slots[m][opcode] = (len(row_list), len(ids), flags)
                row_list += ids
                continue
            sub = []
            for reg in range(8):
                some = [i for i in ids
                        if not rows[i].mask & 0x38 or rows[i].value >> 3 & 7 == reg]
                sub.append((len(row_list), len(some), 0))
                row_list += some
            slots[m][opcode] = (len(subslots), 8, flags | 2)
            subslots.append(sub)
    return row_list, slots, subslots


def main():
    out, paths = sys.argv[1], sys.argv[2:]
    effects = {}
    for p in paths:
        if p.endswith("effects.tab"):
            effects = parse_effects(p)
    rows = []
    for p in paths:
        if not p.endswith("effects.tab"):
            rows += parse(p, effects)
    unknown = set(effects) - {r.op for r in rows}
    if unknown:
        sys.exit("effects.tab: no rows for " + " ".join(sorted(unknown)))
    row_list, slots, subslots = make_index(rows)
    with open(out, "w") as f:
        f.write("/* Made by gen_tables.py from the *.tab files. */\n"
                '#include "lib/isa/x86/tables.h"\n\n'
                "const struct x86_desc x86_rows[] = {\n")
        f.writelines(emit_row(r) for r in rows)
        f.write("};\nconst unsigned x86_nb_rows = %d;\n" % len(rows))
        f.write("const uint16_t x86_row_list[] = {%s};\n"
                % ", ".join(map(str, row_list)))
        slot = "{%d, %d, %d}"
        f.write("const struct x86_slot x86_slots[X86_NB_MAPS][256] = {\n")
        for m in slots:
            f.write("{" + ", ".join(slot % s for s in m) + "},\n")
        f.write("};\nconst struct x86_slot x86_subslots[][8] = {\n")
        for s in subslots:
            f.write("{" + ", ".join(slot % x for x in s) + "},\n")
        f.write("};\n")


if __name__ == "__main__":
    main()
