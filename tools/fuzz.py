"""Run libFuzzer targets of build/fuzz.

usage: fuzz.py [--list] [TARGET] [SECONDS]

A target X lives beside its code as x_fuzz.c and is listed in the `fuzzers` of its
folder's meson.build. Its seeds are tests/corpus/X/; what the fuzzer finds new goes
to build/corpus/X/, and inputs that crash it to build/crashes/X/. (`./dev fuzz insn`
is a program of its own, tests/insn_fuzz.)
"""
import difflib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT_SECONDS = 60


def targets():
    return {p.name: p for p in sorted((ROOT / "build/fuzz/tests").glob("*_fuzz"))
            if p.is_file()}


def fuzz(program, seconds):
    name = program.name[:-len("_fuzz")]
    found, crashes = ROOT / "build/corpus" / name, ROOT / "build/crashes" / name
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = ROOT / "tests/corpus" / name
    argv = [str(program), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
            "-print_final_stats=1", f"-artifact_prefix={crashes}/", str(found)]
    if seeds.is_dir():
        argv.append(str(seeds))
    print(f"fuzz {name}: {seconds} s", flush=True)
    code = subprocess.run(argv).returncode
    print(f"fuzz {name}: {'ok' if code == 0 else f'FAILED, see {crashes}'}", flush=True)
    return code == 0


def main():
    words, known = sys.argv[1:], targets()
    if "--list" in words:
        print("\n".join(["insn", *(n[:-len("_fuzz")] for n in known)]))
        return 0
    seconds = DEFAULT_SECONDS
    if words and words[-1].isdecimal():
        seconds = int(words.pop())
    names = [w if w.endswith("_fuzz") else w + "_fuzz" for w in words] or list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{near[0][:-5]}'?" if near else ""
            sys.exit(f"dev: no fuzz target '{name[:-5]}'{hint} (./dev fuzz --list)")
    if not names:
        sys.exit("dev: there are no fuzz targets")
    results = [fuzz(known[name], seconds) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
