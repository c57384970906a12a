"""A guest on disks with a format: what it wrote is in the image, which QEMU finds sound."""
import hashlib

import assets
import pytest

from images import IMG, QEMU_IMG, check, run
from nbd_server import NBD, serve


@pytest.mark.parametrize("options", ["cluster_size=4096", "extended_l2=on,lazy_refcounts=on"])
def test_a_guest_lives_on_qcow2(tmp_path, make_guest, options):
    guest = make_guest("i=0; while [ $i -lt 20 ]; do\n"
                       "dd if=/dev/urandom of=/f$i bs=64k count=3 2>/dev/null\n"
                       "[ $((i % 3)) -ne 0 ] || sync; i=$((i + 1)); done\n"
                       "rm /f3 /f7; cat /f1 /f2 | sha256sum > /sum; sync")
    image, back = tmp_path / "root.qcow2", tmp_path / "back.raw"
    top = tmp_path / "top.qcow2"
    run(IMG, "convert", "-c", "-O", "qcow2", guest.image, image)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", options, "-b", image, "-F", "qcow2", top)
    vm = guest.start(root={"file": top, "format": "qcow2"})
    assert vm.wait(240) == 0, vm.errors
    assert "lodge: script ended with 0" in vm.serial
    check(QEMU_IMG, top)
    run(QEMU_IMG, "convert", "-O", "raw", top, back)
    a, b = (assets.image_read(back, f"/f{i}") for i in (1, 2))
    assert hashlib.sha256(a + b).hexdigest() in assets.image_read(back, "/sum").decode()


@pytest.mark.parametrize("fmt,options", [
    ("vdi", "static=off"), ("vpc", "force_size=on"), ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vhdx", "block_size=1M")])
def test_a_guest_lives_on_others_formats(tmp_path, make_guest, fmt, options):
    guest = make_guest("dd if=/dev/urandom of=/f bs=64k count=40 2>/dev/null; sync\n"
                       "dd if=/dev/urandom of=/f bs=4k count=9 seek=77 conv=notrunc 2>/dev/null\n"
                       "sha256sum < /f > /sum; sync")
    image, back = tmp_path / f"root.{fmt}", tmp_path / "back.raw"
    run(IMG, "convert", "-O", fmt, "-o", options, guest.image, image)
    vm = guest.start(root={"file": image, "format": fmt})
    assert vm.wait(240) == 0, vm.errors
    assert "lodge: script ended with 0" in vm.serial
    if fmt != "vpc":  # has no check
        check(QEMU_IMG, image)
    run(QEMU_IMG, "convert", "-f", fmt, "-O", "raw", image, back)
    content = assets.image_read(back, "/f")
    assert hashlib.sha256(content).hexdigest() in assets.image_read(back, "/sum").decode()


@pytest.mark.parametrize("fmt,options,key", [
    ("luks", "key-secret=sec0,iter-time=10", "key-secret"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10",
     "encrypt.key-secret")])
def test_a_guest_lives_on_an_encrypted_disk(tmp_path, make_guest, fmt, options, key):
    guest = make_guest("dd if=/dev/urandom of=/f bs=64k count=40 2>/dev/null; sync\n"
                       "echo a word in the clear > /word; sha256sum < /f > /sum; sync")
    image, back = tmp_path / f"root.{fmt}", tmp_path / "back.raw"
    secret = ("secret,id=sec0,file=" + str(tmp_path / "passphrase"))
    (tmp_path / "passphrase").write_text("not to be guessed")
    run(IMG, "convert", "--object", secret, "-O", fmt, "-o", options, guest.image, image)
    vm = guest.start("-object", secret, root={"file": image, "format": fmt, key: "sec0"})
    assert vm.wait(240) == 0, vm.errors
    assert "lodge: script ended with 0" in vm.serial
    assert b"a word in the clear" not in image.read_bytes()
    run(QEMU_IMG, "convert", "--object", secret, "-O", "raw", "--image-opts",
        f"driver={fmt},{key}=sec0,file.filename={image}", back)
    content = assets.image_read(back, "/f")
    assert hashlib.sha256(content).hexdigest() in assets.image_read(back, "/sum").decode()
    vm = guest.start(root={"file": image, "format": fmt})
    assert vm.wait(60) == 1 and f"Parameter '{key}' is required for cipher" in vm.errors


def test_a_guest_lives_on_an_nbd_server(tmp_path, make_guest):
    guest = make_guest("dd if=/dev/urandom of=/f bs=64k count=40 2>/dev/null; sync\n"
                       "sha256sum < /f > /sum; sync")
    image, back = tmp_path / "root.qcow2", tmp_path / "back.raw"
    run(IMG, "convert", "-O", "qcow2", guest.image, image)
    with serve(tmp_path, NBD, "-t", "-e", "0", "-f", "qcow2", image) as s:
        vm = guest.start(root={"file": s.uri(), "format": "raw"})
        assert vm.wait(240) == 0, vm.errors
        assert "lodge: script ended with 0" in vm.serial
    check(QEMU_IMG, image)
    run(QEMU_IMG, "convert", "-O", "raw", image, back)
    content = assets.image_read(back, "/f")
    assert hashlib.sha256(content).hexdigest() in assets.image_read(back, "/sum").decode()
