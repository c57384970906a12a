"""The guest of `./dev bench cpu`: what is in its initramfs, and the same as a folder.

The workloads are tests/bench/cpu and Debian's own programs, taken from this host with
the libraries that they need; both the guests and the host itself run these files.
"""
import gzip
import pathlib
import re
import shutil

import assets
import vm

SOURCES = assets.ROOT / "tests/bench/cpu"
TABLE = SOURCES / "workloads.txt"
BUILT = vm.BUILT / "tests/bench"
PROGRAMS = ("dash", "gzip", "head", "mawk", "perl", "rm", "sqlite3", "true", "xz")
FOLDERS = ("dev", "proc", "tmp", "data", "bin", "usr", "usr/bin", "lib", "lib64")
INITRD, TREE = assets.GUEST / "cpu.img", assets.GUEST / "cpu-tree"


def libraries(program):
    """Absolute paths of what the dynamic linker maps for @program."""
    return re.findall(r"(/\S+) \(0x", assets.run(["ldd", program]))


def text_bytes():
    size = re.search(r"^text (\d+)$", TABLE.read_text(), re.M)[1]
    return assets.run([BUILT / "cpubench", "text", size]).encode()


def programs():
    """{path in the guest: path here}"""
    files = {"init": BUILT / "cpubench", "bin/busybox": assets.busybox(),
             "usr/bin/cpubench-ossl": BUILT / "cpubench-ossl"}
    for name in PROGRAMS:
        found = shutil.which(name)
        if not found:
            raise assets.AssetError(f"no program '{name}' here to give to the guest")
        files[f"usr/bin/{name}"] = pathlib.Path(found).resolve()
    for program in [f for name, f in files.items() if name.startswith("usr/bin")]:
        files |= {path.lstrip("/"): pathlib.Path(path) for path in libraries(program)}
    return files


def data():
    """{path in the guest: bytes}"""
    text = text_bytes()
    files = {f"data/{p.name}": p.read_bytes() for p in (SOURCES / "apps").iterdir()}
    for name, kind in (("rsa", ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
                       ("p256", ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"])):
        key = assets.GUEST / f"cpu-{name}.pem"
        assets.run(["openssl", "genpkey", "-quiet", "-algorithm", *kind, "-out", key])
        files[f"data/{name}.pem"] = key.read_bytes()
    return files | {"data/text": text, "data/text.gz": gzip.compress(text, 6, mtime=0)}


def make():
    files = {name: path.read_bytes() for name, path in programs().items()} | data()
    folders = {str(p) for name in files for p in pathlib.PurePath(name).parents}
    archive = assets.Cpio()
    shutil.rmtree(TREE, ignore_errors=True)
    for folder in sorted((folders | set(FOLDERS)) - {"."}):
        archive.add(folder, assets.Cpio.FOLDER | 0o755)
        (TREE / folder).mkdir(parents=True)
    archive.add("dev/console", assets.Cpio.CHAR_DEVICE | 0o600, device=(5, 1))
    for name, content in files.items():
        archive.add(name, assets.Cpio.FILE | 0o755, content)
        (TREE / name).write_bytes(content)
        (TREE / name).chmod(0o755)
    for link, target in (("bin/sh", "/usr/bin/dash"), ("bin/true", "/usr/bin/true"),
                         ("usr/bin/busybox", "/bin/busybox")):
        archive.add(link, assets.Cpio.LINK | 0o777, target.encode())
        (TREE / link).symlink_to(target)
    with assets.whole(INITRD) as draft:
        draft.write_bytes(archive.finish())


def image():
    """(initramfs, folder with the same content)"""
    assets.busybox()
    with assets.locked():
        sources = [TABLE, *SOURCES.rglob("*"), BUILT / "cpubench", BUILT / "cpubench-ossl",
                   pathlib.Path(__file__), pathlib.Path(assets.__file__)]
        if not assets.newer(INITRD, *sources):
            make()
    return INITRD, TREE
