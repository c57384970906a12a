"""NBD servers under test and their peer, for the tests of this folder."""
import contextlib
import os
import subprocess
import time

import vm

NBD = str(vm.PROGRAMS / "lodge-nbd")
QEMU_NBD = "qemu-nbd"
BOTH = {"ours": NBD, "qemu": QEMU_NBD}
SECONDS = vm.patience(60)  # what hangs, not what is slow


class Server:
    """A server on a UNIX socket: nbd.uri is where."""

    def __init__(self, folder, program, *args, name="s"):
        self.socket = folder / f"{name}.sock"
        self.pid_file = folder / f"{name}.pid"
        self.errors = folder / f"{name}.err"
        self.pid_file.unlink(missing_ok=True)
        if program == NBD and not any("handshake" in str(a) for a in args):
            args = ["--handshake-limit=0", *args]  # a busy host is no reason to fail
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [program, "-k", self.socket, f"--pid-file={self.pid_file}",
                 *(str(a) for a in args)],
                stdin=subprocess.DEVNULL, stderr=errors, cwd=folder)
        # It is written when clients can come.
        deadline = time.monotonic() + SECONDS
        while not (self.pid_file.exists() and self.pid_file.read_text().endswith("\n")):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)

    def uri(self, export="", tls=False, query=""):
        return f"nbd{'s' if tls else ''}+unix:///{export}?socket={self.socket}{query}"

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(SECONDS)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serve(folder, program, *args, name="s"):
    server = Server(folder, program, *args, name=name)
    try:
        yield server
    finally:
        server.stop()
