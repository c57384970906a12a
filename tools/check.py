"""What a machine can say about the tree without running it.

usage: check.py [NAME...]      all checks but `tidy`, or the named ones

Each check looks at tracked files only, prints what it found, and fails the run.
"""
import ast
import concurrent.futures
import difflib
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = "glib-2.0 gio-2.0 jansson liburing zydis capstone".split()
LONGEST_FILE = 1200
TEXT = (".c", ".h", ".py", ".sh", ".md", ".build", ".txt", ".S", ".ld", ".ts", ".css")


def tracked(*patterns):
    """Tracked and new files that are not ignored, as paths below ROOT."""
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others",
                          "--exclude-standard", "--", *patterns],
                         cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    names = sorted(n for n in out.decode().split("\0") if n)
    return [n for n in names if (ROOT / n).is_file()]


def run(argv):
    """The output of a command that failed, or an empty string."""
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return (done.stdout.strip() or f"{argv[0]} failed") if done.returncode else ""


def run_all(commands):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [out for out in pool.map(run, commands) if out]


def batches(names, size=16):
    return [names[i:i + size] for i in range(0, len(names), size)]


def check_layers():
    """layers.txt: who may include whom."""
    out = run([sys.executable, "tools/check_layers.py", "."])
    return [out] if out else []


def check_format():
    """clang-format would change nothing."""
    return run_all([["clang-format", "--dry-run", "-Werror", *b]
                    for b in batches(tracked("*.c", "*.h"))])


def check_space():
    """No white space at line ends, no tab in C, a newline at the file's end."""
    bad = []
    for name in tracked():
        if not name.endswith(TEXT):
            continue
        data = (ROOT / name).read_bytes()
        if data and not data.endswith(b"\n"):
            bad.append(f"{name}: no newline at the end of the file")
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.endswith((b" ", b"\t", b"\r")):
                bad.append(f"{name}:{number}: white space at the end of the line")
            elif b"\t" in line and name.endswith((".c", ".h")):
                bad.append(f"{name}:{number}: a tab")
    return bad


def check_length():
    """No source file is longer than people read."""
    bad = []
    for name in tracked("*.c", "*.h", "*.py", "*.sh", "dev"):
        lines = (ROOT / name).read_bytes().count(b"\n")
        if lines > LONGEST_FILE:
            bad.append(f"{name}: {lines} lines (at most {LONGEST_FILE})")
    return bad


def check_marks():
    """Nothing is left to do in a comment, and nothing is left of a merge."""
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|^(<{7}|>{7}) ")
    bad = []
    for name in tracked("*.c", "*.h", "*.sh", "*.build", "dev"):
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            if mark.search(line):
                bad.append(f"{name}:{number}: {line.strip()}")
    return bad


def library_flags():
    flags = []
    for library in LIBRARIES:
        done = subprocess.run(["pkg-config", "--cflags", library],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            flags += done.stdout.decode().split()
    return flags


def check_headers():
    """Every header compiles alone."""
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Werror", "-I.", *library_flags()]
    return run_all([["gcc", *flags, "-fsyntax-only", "-x", "c", name]
                    for name in tracked("*.h")])


def check_shell():
    """shellcheck on the shell scripts."""
    names = tracked("dev", ".ci/run", "*.sh")
    out = run(["shellcheck", "-x", "-s", "bash", *names])
    return [out] if out else []


def check_python():
    """Every Python file parses."""
    bad = []
    for name in tracked("*.py"):
        try:
            ast.parse((ROOT / name).read_bytes(), name)
        except SyntaxError as error:
            bad.append(f"{name}:{error.lineno}: {error.msg}")
    return bad


def check_links():
    """Relative links in the documents lead somewhere."""
    bad = []
    for name in tracked("*.md"):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not (ROOT / name).parent.joinpath(target).exists():
                bad.append(f"{name}: no {target}")
    return bad


def check_tidy():
    """clang-tidy over the release tree's compile commands."""
    database = ROOT / "build/release/compile_commands.json"
    if not database.exists():
        return ["no build/release: run ./dev build first"]
    listed = database.read_text()
    names = [n for n in tracked("*.c") if f"{n}\"" in listed]
    return run_all([["clang-tidy", "--quiet", "-p", "build/release", n] for n in names])


CHECKS = {f.__name__[len("check_"):]: f
          for f in (check_layers, check_format, check_space, check_length, check_marks,
                    check_headers, check_shell, check_python, check_links, check_tidy)}
ON_REQUEST = ("tidy",)


def main():
    names = sys.argv[1:] or [n for n in CHECKS if n not in ON_REQUEST]
    for name in names:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            sys.exit(f"dev: no check '{name}'{hint} (there are: {' '.join(CHECKS)})")
    failed = False
    for name in names:
        bad = CHECKS[name]()
        failed |= bool(bad)
        print(f"check {name}: {'FAILED' if bad else 'ok'}")
        if bad:
            print("\n".join("  " + line for b in bad for line in b.splitlines()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
