"""Run Meson's test suites and the pytest suites, and add up what they say.

usage: test.py [--list] [--tree TREE] [SUITE|TEST...]

Without arguments: every suite but the long ones. A word is, in this order:
  asan, tsan        the unit suite in that build tree
  a Meson suite     unit ...
  a pytest suite    a folder under tests/ with test_*.py (its slow tests included
                    only with `long`, or when it is named with a test, or when the
                    suites named have no others)
  a test            of Meson (base), or of pytest (boot/test_power.py::test_x)
  long              the tests marked long, of the suites named beside it or of all
  mutants           mistakes planted in the software CPU, for the instruction fuzzer and
                    for the tests of code that changes

--tree asan, --tree tsan: what is run is that tree's, with its sanitizers' reports in
build/test/reports. A report is a failure, whatever the test says.

The last line is `N passed, N failed, N skipped`. A run of zero tests is a failure.
"""
import difflib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build/test/reports"
SANITIZERS = ("asan", "tsan")
LONG = "long"
NOTHING_SELECTED = 5  # pytest's exit code
BY_NAME = (LONG, "mutants")  # suites that only run when they are named


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, passed=0, failed=0, skipped=0):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def line(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def meson_tests(tree):
    """[(name, {suites})] of a configured tree."""
    out = subprocess.run(["meson", "introspect", "--tests", str(tree)], check=True,
                         stdout=subprocess.PIPE).stdout
    return [(t["name"], {s.rpartition(":")[2] for s in t["suite"]})
            for t in json.loads(out)]


def pytest_suites():
    return sorted({p.parent.name for p in (ROOT / "tests").glob("*/test_*.py")})


def count_tap(text):
    """(passed, failed, skipped) of the numbered lines of a TAP stream."""
    passed = failed = skipped = 0
    for line in text.splitlines():
        words = line.upper()
        if line.startswith("not ok"):
            failed += "# TODO" not in words
        elif line.startswith("ok "):
            if "# SKIP" in words:
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def add_meson_result(totals, result):
    """One line of testlog.json: a program, often with many TAP tests inside."""
    passed, failed, skipped = count_tap(result.get("stdout") or "")
    verdict = result["result"]
    if verdict in ("OK", "EXPECTEDFAIL"):
        if passed + skipped == 0:
            passed = 1
    elif verdict == "SKIP":
        skipped = max(skipped, 1)
    elif failed == 0:
        failed = 1  # a crash, a timeout or a bad plan after good lines
    totals.add(passed, failed, skipped)


def run_meson(totals, tree, args):
    log = tree / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    env = sanitizer_env(os.environ)
    if tree.name in SANITIZERS:
        args = ["--timeout-multiplier", "10", *args]
    code = subprocess.run(["meson", "test", "-C", str(tree), "--no-rebuild",
                           "--print-errorlogs", *args], env=env).returncode
    before = totals.failed
    if log.exists():
        for line in log.read_text().splitlines():
            add_meson_result(totals, json.loads(line))
    if code and totals.failed == before:
        totals.add(failed=1)


def sanitizer_env(environ):
    """What every program of a sanitizers' tree is to run with."""
    supp = ROOT / "tools/tsan.supp"
    return {"UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "TSAN_OPTIONS": f"halt_on_error=1:suppressions={supp}", **environ}


def clear_reports():
    """The environment in which sanitizers report into files, of which there are none."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    env = sanitizer_env(os.environ)
    for name in ("ASAN", "UBSAN", "TSAN"):
        options = [env.get(f"{name}_OPTIONS"), f"log_path={REPORTS / name.lower()}"]
        env[f"{name}_OPTIONS"] = ":".join(filter(None, options))
    return env


def show_reports():
    """How many there are: a test may drop the standard error of what it runs."""
    reports = sorted(REPORTS.iterdir())
    for path in reports:
        print(f"{path}:\n{path.read_text(errors='replace')}")
    return len(reports)


def run_pytest(totals, tree, paths, marks):
    report = ROOT / "build/test/pytest.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    jobs = os.environ.get("LODGE_TEST_JOBS") or str(os.cpu_count() or 1)
    env = {**clear_reports(), "LODGE_TREE": tree}
    if tree in SANITIZERS:
        paths = [*paths, "-k", "not qemu"]  # the peer is the same in every tree
    code = subprocess.run([sys.executable, "-m", "pytest", "-n", jobs, "-m", marks,
                           f"--junit-xml={report}", "-q", *paths],
                          cwd=ROOT / "tests", env=env).returncode
    before = totals.failed
    if report.exists():
        for suite in xml.parse(report).getroot().iter("testsuite"):
            failed = int(suite.get("failures")) + int(suite.get("errors"))
            skipped = int(suite.get("skipped"))
            totals.add(int(suite.get("tests")) - failed - skipped, failed, skipped)
    if code not in (0, NOTHING_SELECTED) and totals.failed == before:
        totals.add(failed=1)
    totals.add(failed=show_reports())
    return code


class Plan:
    """What the words on the command line ask for."""

    def __init__(self, words, tree="release"):
        self.name, self.tree = tree, ROOT / "build" / tree
        self.tests = meson_tests(self.tree)
        self.suites = sorted(set().union(*(s for _, s in self.tests), ()))
        self.sanitizers, self.meson, self.pytest = [], [], []
        self.names, self.paths, self.long = [], [], False
        for word in words:
            self.take(word)

    def take(self, word):
        folder, _, rest = word.partition("/")
        if word in SANITIZERS:
            self.sanitizers.append(word)
        elif word == LONG:
            self.long = True
        elif word in self.suites:
            self.meson.append(word)
        elif word in pytest_suites():
            self.pytest.append(word)
        elif word in (n for n, _ in self.tests):
            self.names.append(word)
        elif rest and (ROOT / "tests" / folder / rest.partition("::")[0]).is_file():
            self.paths.append(word)
        else:
            known = (*SANITIZERS, LONG, *self.suites, *pytest_suites(),
                     *(n for n, _ in self.tests))
            near = difflib.get_close_matches(word, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            sys.exit(f"dev: no suite or test '{word}'{hint} (./dev test --list)")

    def run(self, totals):
        some = self.meson or self.names or self.paths or self.pytest
        if not some and not self.sanitizers:
            self.pytest = pytest_suites()
            if not self.long:
                self.meson = [s for s in self.suites if s not in BY_NAME]
        for tree in self.sanitizers:
            run_meson(totals, ROOT / "build" / tree, ["--suite", "unit"])
        if self.meson:
            run_meson(totals, self.tree, [a for s in self.meson for a in ("--suite", s)])
        if self.long and LONG in self.suites and not some:
            run_meson(totals, self.tree, ["--suite", LONG])
        if self.names:
            run_meson(totals, self.tree, self.names)
        if self.pytest:
            code = run_pytest(totals, self.name, self.pytest, LONG if self.long else f"not {LONG}")
            if code == NOTHING_SELECTED and some and not self.long:
                run_pytest(totals, self.name, self.pytest, LONG)  # suites of long tests only
        if self.paths:
            run_pytest(totals, self.name, self.paths, "")

    def list(self):
        print("unit tests (Meson), by suite:")
        for suite in self.suites:
            print(f"  {suite}: {' '.join(n for n, s in self.tests if suite in s)}")
        print("integration tests (pytest), by suite:")
        for suite in pytest_suites():
            files = sorted(p.name for p in (ROOT / "tests" / suite).glob("test_*.py"))
            print(f"  {suite}: {' '.join(files)}")
        print("not in the default run:")
        print("  asan tsan: the unit tests in the sanitizers' build trees")
        print("  --tree asan, --tree tsan: every suite, or those named, in that tree")
        print("  long: tests marked long, of all suites or of the suites named")


def main():
    words = sys.argv[1:]
    if "--list" in words:
        Plan([]).list()
        return 0
    tree = "release"
    if "--tree" in words:
        at = words.index("--tree")
        tree = "".join(words[at + 1:at + 2])
        del words[at:at + 2]
        if tree not in ("release", *SANITIZERS):
            sys.exit(f"dev: no tree '{tree}' to test (release {' '.join(SANITIZERS)})")
    totals = Totals()
    Plan(words, tree).run(totals)
    if totals.passed + totals.failed == 0:
        print("dev: no test ran", file=sys.stderr)
        sys.stderr.flush()
    print(totals.line())
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(main())
