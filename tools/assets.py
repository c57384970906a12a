"""What a guest needs to boot: Debian's cloud kernel, an initramfs, root disks.

Everything is kept in build/guest/ and made once: after that no network is needed.
Packages are unpacked there, never installed on the host.
"""
import contextlib
import fcntl
import gzip
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tools/guest"
GUEST = ROOT / "build/guest"
MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_rng")
# Kind of kernel: (architecture, package); the kinds but cloud have ext4 as a module.
KERNELS = {
    "cloud": ("amd64", "linux-image-cloud-amd64"),
    "amd64": ("amd64", "linux-image-amd64"),
    "686": ("i386", "linux-image-686"),
    "686-pae": ("i386", "linux-image-686-pae"),
}
RELEASE = "bookworm"
FOLDERS = ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "check")


class AssetError(Exception):
    """Something could not be fetched or built; the text is for a person."""


def say(text):
    print(f"dev: {text}", file=sys.stderr, flush=True)


def run(argv, **options):
    """Run a tool; its words are shown only when it fails."""
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options)
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise AssetError(f"{argv[0]} failed ({done.returncode}):\n{text.strip()[-4000:]}")
    return text


def as_root():
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise AssetError("this needs root, or sudo")


@contextlib.contextmanager
def locked(name="lock"):
    """One maker at a time: tests run in several processes."""
    GUEST.mkdir(parents=True, exist_ok=True)
    with open(GUEST / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def whole(path):
    """A file that appears under its name only when it is complete."""
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)
    yield draft
    draft.replace(path)


# Packages

def apt_options(arch):
    """Another architecture has lists of its own here: the host does not get to know."""
    if arch == "amd64":
        return []
    state = GUEST / f"apt-{arch}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    return [w for option in (f"APT::Architecture={arch}", f"APT::Architectures={arch}",
                             f"Dir::State::lists={state}/lists",
                             f"Dir::Cache={state}/cache", "Dir::State::status=/dev/null",
                             "APT::Sandbox::User=root")
            for w in ("-o", option)]


def depends_of(package, arch="amd64"):
    return run(["apt-cache", *apt_options(arch), "show", "--no-all-versions", package])


def versioned_kernel(kind="cloud"):
    arch, package = KERNELS[kind]
    flavour = package.removeprefix("linux-image-")
    match = re.search(rf"^Depends:.*?(linux-image-\d[\w.+-]*-{flavour})\b",
                      depends_of(package, arch), re.M)
    if not match:
        raise AssetError(f"{package} depends on no versioned kernel package")
    return match[1]


def download(find_name, folder, arch="amd64"):
    """apt-get download, with fresh package lists when the ones here are too old."""
    folder.mkdir(parents=True, exist_ok=True)
    options = apt_options(arch)
    for attempt in (1, 2):
        try:
            name = find_name()
            say(f"fetching Debian's {name} (for the guest; not installed here)")
            run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", *options,
                 "download", name], cwd=folder)
            return next(folder.glob(f"{name}_*.deb"))
        except (AssetError, StopIteration):
            if attempt == 2:
                raise
            say("apt-get update: the package lists here are missing or too old")
            try:
                run([*([] if options else as_root()), "apt-get", *options, "update",
                     "-q"])
            except AssetError as error:
                say(f"{error}\ndev: going on with the lists that are there")


def unpacked(name, find_name, arch="amd64"):
    """The folder a package's files are in."""
    folder = GUEST / name
    # Not the lock of what is made of packages: its makers come here, too.
    with locked("lock.packages"):
        if not folder.exists():
            package = download(find_name, GUEST / "debs" / name, arch)
            draft = GUEST / (name + ".part")
            shutil.rmtree(draft, ignore_errors=True)
            run(["dpkg-deb", "-x", package, draft])
            draft.rename(folder)
    return folder


def kernel_files(kind="cloud"):
    """(vmlinuz, folder of its modules)"""
    name = "kernel" if kind == "cloud" else f"kernel-{kind}"
    folder = unpacked(name, lambda: versioned_kernel(kind), KERNELS[kind][0])
    return (next((folder / "boot").glob("vmlinuz-*")),
            next((folder / "lib/modules").iterdir()))


def busybox(arch="amd64"):
    name = "busybox" if arch == "amd64" else f"busybox-{arch}"
    return unpacked(name, lambda: "busybox-static", arch) / "bin/busybox"


# Modules

def module_bytes(path):
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data


def module_depends(data):
    """The `depends=` field of a module's .modinfo: the package has no modules.dep."""
    match = re.search(rb"\0depends=([\w,-]*)\0", data)
    return [n for n in match[1].decode().split(",") if n] if match else []


def modules_in_order(folder, names):
    """[(file name, bytes)], every module after the ones it depends on."""
    files = {p.name.split(".ko")[0].replace("-", "_"): p for p in folder.rglob("*.ko*")}
    builtin = {pathlib.PurePath(line).stem.replace("-", "_")
               for line in (folder / "modules.builtin").read_text().split()}
    order = {}

    def visit(name):
        name = name.replace("-", "_")
        if name in order or name in builtin:
            return
        if name not in files:
            raise AssetError(f"the kernel package has no module {name}")
        data = module_bytes(files[name])
        for needed in module_depends(data):
            visit(needed)
        order[name] = data

    for name in names:
        visit(name)
    return [(f"{name}.ko", data) for name, data in order.items()]


# The initramfs: a cpio archive in the "newc" form of the kernel's
# Documentation/driver-api/early-userspace/buffer-format.rst

class Cpio:
    FOLDER, FILE, LINK, CHAR_DEVICE = 0o040000, 0o100000, 0o120000, 0o020000

    def __init__(self):
        self._data, self._entries = bytearray(), 0

    def _pad(self):
        self._data += b"\0" * (-len(self._data) % 4)

    def add(self, name, mode, data=b"", device=(0, 0)):
        self._entries += 1
        fields = (self._entries, mode, 0, 0, 1, 0, len(data), 0, 0, *device,
                  len(name) + 1, 0)
        self._data += b"070701" + b"".join(b"%08X" % f for f in fields)
        self._data += name.encode() + b"\0"
        self._pad()
        self._data += data
        self._pad()

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self._data)


def initrd_bytes(kind="cloud"):
    _, modules = kernel_files(kind)
    archive = Cpio()
    for name in (*FOLDERS[:-1], "lib", "lib/modules"):
        archive.add(name, Cpio.FOLDER | 0o755)
    archive.add("dev/console", Cpio.CHAR_DEVICE | 0o600, device=(5, 1))
    archive.add("dev/null", Cpio.CHAR_DEVICE | 0o666, device=(1, 3))
    archive.add("bin/busybox", Cpio.FILE | 0o755, busybox(KERNELS[kind][0]).read_bytes())
    for applet in applets():
        archive.add(f"bin/{applet}", Cpio.LINK | 0o777, b"busybox")
    archive.add("init", Cpio.FILE | 0o755, (SOURCES / "init").read_bytes())
    ext4 = () if kind == "cloud" else ("crc32c_generic", "ext4")
    loaded = modules_in_order(modules, (*MODULES, *ext4))
    for name, data in loaded:
        archive.add(f"lib/modules/{name}", Cpio.FILE | 0o644, data)
    order = "".join(f"{name}\n" for name, _ in loaded)
    archive.add("lib/modules/order", Cpio.FILE | 0o644, order.encode())
    return archive.finish()


def applets():
    return [a for a in run([busybox(), "--list"]).split() if a != "busybox"]


def newer(path, *sources):
    return path.exists() and all(path.stat().st_mtime > s.stat().st_mtime
                                 for s in sources)


def initrd(kind="cloud"):
    path = GUEST / ("initrd.img" if kind == "cloud" else f"initrd-{kind}.img")
    with locked():
        if not newer(path, SOURCES / "init", pathlib.Path(__file__)):
            with whole(path) as draft:
                draft.write_bytes(initrd_bytes(kind))
    return path


def kernel(kind="cloud"):
    with locked():
        return kernel_files(kind)[0]


# Root disks

def make_ext4(path, tree, size_mib):
    """An ext4 image of @size_mib MiB with what is in the folder @tree."""
    with whole(path) as draft:
        with open(draft, "wb") as image:
            image.truncate(size_mib << 20)
        run(["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-L", "lodge",
             "-d", tree, draft])


def lay_out_root(tree):
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    shutil.copy(busybox(), tree / "bin/busybox")
    for applet in applets():
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "bin/busybox").chmod(0o755)
    (tree / "etc/passwd").write_text("root::0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    for source, target in (("disk-init", "etc/init"), ("check.sh", "etc/check.sh")):
        shutil.copy(SOURCES / source, tree / target)
        (tree / target).chmod(0o755)
    (tree / "sbin/init").symlink_to("/etc/init")


def root_image(path=None, size_mib=64, files=None):
    """
    The small root disk. With @path a new one there, of @size_mib MiB, holding @files
    as well ({path in the guest: bytes or a host path}); else the shared pristine
    one, which is for copying.
    """
    if path is None:
        path = GUEST / "root.img"
        with locked():
            if not newer(path, *SOURCES.iterdir(), pathlib.Path(__file__)):
                root_image(path)
        return path
    tree = path.with_name(path.name + ".tree")
    shutil.rmtree(tree, ignore_errors=True)
    lay_out_root(tree)
    for name, content in (files or {}).items():
        target = tree / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copy(content, target)
    make_ext4(path, tree, size_mib)
    shutil.rmtree(tree)
    return path


def copy_image(source, target):
    run(["cp", "--sparse=always", "--reflink=auto", source, target])
    return target


def image_read(image, name):
    """The bytes of a file in an ext4 image, without mounting it; None: not there."""
    done = subprocess.run(["debugfs", "-R", f"cat {name}", str(image)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode or b"File not found" in done.stderr:
        return None
    return done.stdout


def image_write(image, name, source):
    """Put the host's file @source into an ext4 image as @name."""
    run(["debugfs", "-w", "-R", f"write {source} {name}", image])
    if image_read(image, name) is None:
        raise AssetError(f"{image}: debugfs could not write {name}")


# A whole Debian

DEBIAN_PACKAGES = "systemd-sysv,udev,dbus,login,iproute2,procps,kmod,less,nano-tiny"


def debian_image():
    """A bootable minimal Debian, root without password."""
    path = GUEST / "debian.img"
    with locked():
        if not path.exists():
            make_debian(path)
    return path


def make_debian(path):
    tree, sudo = GUEST / "debian.tree", as_root()
    say("debootstrap: fetching and unpacking a minimal Debian, some minutes")
    run([*sudo, "rm", "-rf", tree])
    run([*sudo, "debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}",
         RELEASE, tree])
    setup = (f"echo lodge >{tree}/etc/hostname; "
             f"echo '/dev/vda / ext4 defaults 0 1' >{tree}/etc/fstab; "
             f"chroot {tree} passwd -d root; rm -f {tree}/var/cache/apt/archives/*.deb")
    run([*sudo, "sh", "-ec", setup])
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)
    with open(draft, "wb") as image:
        image.truncate(2 << 30)
    run([*sudo, "mke2fs", "-q", "-t", "ext4", "-L", "debian", "-d", tree, draft])
    run([*sudo, "rm", "-rf", tree])
    draft.replace(path)
