"""Both I/O tools at the same work in folders of their own, and what they say compared."""
import re
import subprocess

from images import IO, QEMU_IO, SECONDS

# What differs from run to run: durations and rates, and names of nodes nobody named.
FILTERS = [
    (re.compile(r"; [0-9:.]+( sec)? \(.*/sec and .* ops/sec\)"), "; TIME"),
    (re.compile(r"^([0-9]+,1),[0-9:.]+,[0-9.]+,[0-9.]+$", re.M), r"\1,TIME"),
    (re.compile(r"#block[0-9]+"), "#blockN"),
    (re.compile(r"WARNING: Image format was not specified for .*(\n   .*)*"), "WARNING: probed"),
]


def filtered(text, folder):
    text = re.sub(r"\S*/bin-(theirs|ours)/", "BIN/", text.replace(str(folder), "FOLDER"))
    for pattern, by in FILTERS:
        text = pattern.sub(by, text)
    return text


class Twins:
    """Folders "theirs" and "ours" with the same files."""

    def __init__(self, tmp_path):
        self.tools = []
        for name, program in (("theirs", QEMU_IO), ("ours", IO)):
            folder = tmp_path / name
            folder.mkdir()
            link = tmp_path / f"bin-{name}" / "qemu-io"
            link.parent.mkdir()
            found = subprocess.run(["which", program], capture_output=True, text=True)
            link.symlink_to(found.stdout.strip())
            self.tools.append((folder, link))

    def folders(self):
        return [folder for folder, _ in self.tools]

    def make(self, *argv):
        """The same command for both, such as making an image."""
        for folder in self.folders():
            subprocess.run([str(a) for a in argv], cwd=folder, check=True, timeout=SECONDS,
                           capture_output=True)

    def write(self, name, data):
        for folder in self.folders():
            (folder / name).write_bytes(data)

    def results(self, argv, stdin=""):
        out = []
        for folder, program in self.tools:
            done = subprocess.run([str(program), *[str(a) for a in argv]], cwd=folder,
                                  input=stdin, capture_output=True, text=True, timeout=SECONDS,
                                  errors="replace")
            out.append((done.returncode, filtered(done.stdout, folder),
                        filtered(done.stderr, folder)))
        return out

    def same(self, *argv, stdin="", prompts=True):
        """@prompts: also where the prompts stand between what requests say."""
        theirs, ours = self.results(argv, stdin)
        if not prompts:
            theirs, ours = ([r, o.replace("qemu-io> ", ""), e] for r, o, e in (theirs, ours))
        assert ours == theirs, f"{argv} {stdin!r}"

    def commands(self, lines, *argv):
        """Each line as a run of its own; all that differ are shown."""
        bad = []
        for line in lines:
            theirs, ours = self.results(["-c", line, *argv])
            if ours != theirs:
                bad.append((line, "theirs", theirs, "ours", ours))
        assert not bad, "\n".join(map(str, bad))
