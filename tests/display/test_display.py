"""The screen and the keyboard of a PC, seen and used through VNC."""
import itertools
import secrets
import socket
import struct
import time

import pytest

import rfb
import vm

BOARDS = ("pc", "q35")
SECONDS = vm.patience(60)

# fa: cli; ax = ds = es = ss = 0; sp = 0x7c00; sti
START = "fa31c08ed88ec08ed0bc007cfb"

# Prints what follows the code by INT 10h, then each key that INT 16h gives: on the
# serial port and on the screen.
TYPEWRITER = START + (
    "be2f7c"              # si = 0x7c2f, behind the code
    "ac84c07409"          # again: lodsb; test al, al; jz keys
    "b40ebb0700cd10"      # ah = 14, bx = 7: int 0x10
    "ebf2"                # jmp again
    "30e4cd16"            # keys: ah = 0: int 0x16
    "baf803ee"            # out 0x3f8, al
    "b40ebb0700cd10"      # int 0x10
    "ebef")               # jmp keys

# Mode 13h, the upper half of the picture in colour 4, the lower in colour 2.
STRIPES = START + (
    "b81300cd10"          # ax = 0x13: int 0x10
    "b800a08ec0"          # es = 0xa000
    "31ffb004b9007df3aa"  # di = 0, al = 4, cx = 32000: rep stosb
    "b002b9007df3aa"      # al = 2
    "f4ebfd")             # hlt


def boot_disk(path, code, text=""):
    sector = bytes.fromhex(code) + text.encode() + b"\0"
    path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    return path


@pytest.fixture
def start(vmm, tmp_path, is_lodge):
    """start(board, disk, *extra, vnc=options) -> (running VM, where its VNC server is)"""
    running, numbers = [], itertools.count()

    def run(board, disk, *extra, vnc=""):
        where = tmp_path / f"vnc{next(numbers)}"
        argv = [vmm, "-M", board, "-accel", "bt" if is_lodge else "tcg", "-nodefaults",
                "-vga", "std", "-m", "64", "-serial", "stdio", "-vnc", f"unix:{where}{vnc}",
                "-drive", f"file={disk},format=raw,if=none,id=d0",
                "-device", "virtio-blk-pci,drive=d0", *extra]
        running.append(vm.Vm(argv))
        return running[-1], where

    yield run
    for guest in running:
        guest.kill()


@pytest.mark.parametrize("board", BOARDS)
def test_what_is_typed_arrives_and_is_shown(start, tmp_path, board):
    shown, typed = secrets.token_hex(12), secrets.token_hex(6) + "Zq!:_{~"
    guest, where = start(board, boot_disk(tmp_path / "disk", TYPEWRITER, shown + "\r\n"))

    with rfb.Viewer(where, seconds=SECONDS) as viewer:
        viewer.wait_text(shown, SECONDS)
        for n in range(0, len(typed), 8):  # the BIOS keeps 15 keys
            viewer.type(typed[n:n + 8])
            guest.wait_for(typed[:n + 8], SECONDS)
        text = viewer.wait_text(typed, SECONDS)

    assert text.index(shown) < text.index(typed)


def test_keys_with_codes_need_no_keysym(start, tmp_path):
    guest, where = start("pc", boot_disk(tmp_path / "disk", TYPEWRITER, "ready"))

    with rfb.Viewer(where, encodings=(rfb.ZRLE, rfb.DESKTOP_SIZE, rfb.EXT_KEY), seconds=SECONDS) as viewer:
        viewer.wait_text("ready", SECONDS)
        for code in (0x10, 0x1e, 0x2c):  # the first letters of three rows
            for down in (1, 0):
                viewer.send_raw(struct.pack(">BBHII", 255, 0, down, 0, code))
        guest.wait_for("qaz", SECONDS)


@pytest.mark.parametrize("suffix", ("png", "ppm"))
def test_graphics_and_the_last_picture(start, tmp_path, is_lodge, suffix):
    red, green = b"\0\0\xaa\0", b"\0\xaa\0\0"
    dump = tmp_path / f"last.{suffix}"
    extra = ["-display", f"none,screendump={dump}"] if is_lodge else []
    guest, where = start("pc", boot_disk(tmp_path / "disk", STRIPES), *extra)

    with rfb.Viewer(where, seconds=SECONDS) as viewer:
        end = time.monotonic() + SECONDS
        while viewer.screen().pixels[-4:] != green:
            assert time.monotonic() < end, "no picture"
            time.sleep(0.05)
        assert (viewer.width, viewer.height) == (640, 400)
        assert viewer.pixels == red * (640 * 200) + green * (640 * 200)
    if is_lodge:
        guest.process.terminate()
        assert guest.wait(SECONDS) == 0
        head = dump.read_bytes()
        if suffix == "png":
            assert head[:8] == b"\x89PNG\r\n\x1a\n"
            assert struct.unpack(">II", head[16:24]) == (640, 400)
        else:
            rgb = bytes((0xaa, 0, 0)) * (640 * 200) + bytes((0, 0xaa, 0)) * (640 * 200)
            assert head == b"P6\n640 400\n255\n" + rgb


def secret(tmp_path, password):
    (tmp_path / "password").write_text(password)
    return ["-object", f"secret,id=sec0,file={tmp_path}/password"]


@pytest.mark.parametrize("version", ("003.003", "003.007", "003.008"))
def test_passwords(start, tmp_path, version):
    _, where = start("pc", boot_disk(tmp_path / "disk", TYPEWRITER),
                     *secret(tmp_path, "pAss?wd1"), vnc=",password-secret=sec0")

    with rfb.Viewer(where, password="pAss?wd1", version=version, seconds=SECONDS) as viewer:
        viewer.screen()
    for wrong in ("", "pAss?wd", "pass?wd1"):
        with pytest.raises(rfb.Refused):
            rfb.Viewer(where, password=wrong, version=version, seconds=SECONDS)


def test_who_guesses_has_to_wait(start, tmp_path):
    _, where = start("pc", boot_disk(tmp_path / "disk", TYPEWRITER),
                     *secret(tmp_path, "right"), vnc=",password-secret=sec0")

    for _ in range(5):
        with pytest.raises(rfb.Refused, match="Authentication failed"):
            rfb.Viewer(where, password="wrong", seconds=SECONDS)
    for password in ("wrong", "right"):
        with pytest.raises(rfb.Refused, match="Too many"):
            rfb.Viewer(where, password=password, seconds=SECONDS)


def free_display():
    """The number of a display whose port and WebSocket port are free now."""
    for number in range(100, 200):
        with socket.socket() as a, socket.socket() as b:
            try:
                a.bind(("127.0.0.1", 5900 + number))
                b.bind(("127.0.0.1", 5700 + number))
                return number
            except OSError:
                continue
    raise AssertionError("no ports")


def test_ports_and_websocket(start, tmp_path):
    nonce, number = secrets.token_hex(8), free_display()
    disk = boot_disk(tmp_path / "disk", TYPEWRITER, nonce)
    start("pc", disk, "-vnc", f"127.0.0.1:{number},websocket=on")

    with rfb.Viewer(("127.0.0.1", 5900 + number), seconds=SECONDS) as viewer:
        viewer.wait_text(nonce, SECONDS)
    with rfb.Viewer(("127.0.0.1", 5700 + number), websocket=True, seconds=SECONDS) as viewer:
        viewer.wait_text(nonce, SECONDS)


def test_bad_viewers_hold_up_nobody(start, tmp_path):
    guest, where = start("pc", boot_disk(tmp_path / "disk", TYPEWRITER, "ready"))
    bad = [rfb.connect(where, SECONDS) for _ in range(12)]

    with rfb.Viewer(where, seconds=SECONDS) as viewer, \
            rfb.Viewer(where, encodings=(rfb.RAW,), seconds=SECONDS) as deaf:
        viewer.wait_text("ready", SECONDS)
        for sock in bad[:4]:  # half a handshake
            sock.sendall(b"RFB 003")
        for sock in bad[4:8]:  # nonsense after one
            sock.sendall(b"RFB 003.008\n\1\1" + bytes(range(256)) * 16)
        for sock in bad[8:]:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            for _ in range(2000):  # pictures that it never takes
                deaf.request(False)
        except OSError:
            pass
        viewer.type("still")
        guest.wait_for("still", SECONDS)
        viewer.wait_text("still", SECONDS)
    for sock in bad:
        sock.close()


def test_a_viewer_that_wants_to_be_alone(start, tmp_path):
    _, where = start("pc", boot_disk(tmp_path / "disk", TYPEWRITER, "ready"))

    with rfb.Viewer(where, seconds=SECONDS) as first:
        first.wait_text("ready", SECONDS)
        alone = rfb.connect(where, SECONDS)
        alone.sendall(b"RFB 003.008\n\1\0")
        with pytest.raises((ConnectionError, BrokenPipeError)):
            for _ in range(1000):
                first.screen()
                time.sleep(0.05)
        alone.close()


@pytest.mark.parametrize("words, message", [
    (["-vnc", "nowhere"], "-vnc nowhere: 'nowhere' is not HOST:N"),
    (["-vnc", ":70000"], "-vnc :70000: ':70000' is not HOST:N"),
    (["-vnc", "unix:/x,password=on"], "password-secret=ID"),
    (["-vnc", "unix:/x,password-secret=no"], "no"),
    (["-vnc", ":1,websockt=on"], "did you mean 'websocket'?"),
    (["-vnc", "unix:/no/such/folder/x"], "/no/such/folder/x: No such file or directory"),
    (["-display", "gtk"], "there is no display 'gtk'"),
    (["-vga", "sdt"], "did you mean 'std'?"),
    (["-M", "microvm", "-kernel", "/dev/null", "-vga", "std"], "machine 'microvm' has no place for it"),
    (["-device", "VGA,vgamem_mb=3"], "vgamem_mb=3 is not a power of two"),
])
def test_mistakes_are_named(vmm, is_lodge, tmp_path, words, message):
    if not is_lodge:
        pytest.skip("these are Lodge's words")
    guest = vm.Vm([vmm, "-M", "pc", "-nodefaults", *words])
    with guest:
        assert guest.wait(SECONDS) == 1
        assert message in guest.errors
