"""A small VNC viewer for tests (RFC 6143): raw and ZRLE, passwords, WebSocket; and the
text of a screen, read by the cells of a font."""
import base64
import os
import pathlib
import socket
import struct
import subprocess
import time
import zlib

RAW, ZRLE, DESKTOP_SIZE, EXT_KEY = 0, 16, -223, -258
VGABIOS = pathlib.Path("/usr/share/seabios/vgabios-stdvga.bin")


def des(password, challenge):
    """The answer to a challenge, by OpenSSL's command line: single DES, mirrored key."""
    key = bytes(int(f"{b:08b}"[::-1], 2) for b in password.encode()[:8].ljust(8, b"\0"))
    return subprocess.run(["openssl", "enc", "-des-ede3", "-nopad", "-K", (key * 3).hex()],
                          input=challenge, stdout=subprocess.PIPE, check=True).stdout


class WebSocket:
    """A socket whose bytes are those of binary WebSocket messages."""

    def __init__(self, sock):
        self._sock, self._data = sock, b""
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                     f"Sec-WebSocket-Protocol: binary\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        assert head.startswith(b"HTTP/1.1 101"), head

    def _exactly(self, n):
        got = b""
        while len(got) < n:
            more = self._sock.recv(n - len(got))
            if not more:
                raise ConnectionError("the server closed the WebSocket")
            got += more
        return got

    def recv(self, n):
        while not self._data:
            op, len_ = self._exactly(2)
            if len_ == 126:
                len_, = struct.unpack(">H", self._exactly(2))
            elif len_ == 127:
                len_, = struct.unpack(">Q", self._exactly(8))
            assert op == 0x82, op
            self._data = self._exactly(len_)
        got, self._data = self._data[:n], self._data[n:]
        return got

    def sendall(self, data):
        mask = os.urandom(4)
        len_ = (bytes([0x80 | len(data)]) if len(data) < 126
                else b"\xfe" + struct.pack(">H", len(data)))
        self._sock.sendall(b"\x82" + len_ + mask +
                           bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def settimeout(self, seconds):
        self._sock.settimeout(seconds)

    def close(self):
        self._sock.close()


class Refused(Exception):
    pass


def connect(where, seconds=60):
    """A socket at a path or (host, port), which is about to be there."""
    end = time.monotonic() + seconds
    while True:
        sock = socket.socket(socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX)
        try:
            sock.settimeout(seconds)
            sock.connect(where if isinstance(where, tuple) else str(where))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


class Viewer:
    """A viewer; `pixels` are 4 bytes each, blue first, rows of `width`."""

    def __init__(self, where, *, password=None, version="003.008", websocket=False,
                 encodings=(ZRLE, RAW, DESKTOP_SIZE), seconds=60):
        self._sock = connect(where, seconds)
        if websocket:
            self._sock = WebSocket(self._sock)
        self._zlib, self._cells = zlib.decompressobj(), {}
        self._handshake(version, password)
        self._send(struct.pack(">BxH", 2, len(encodings)) +
                   b"".join(struct.pack(">i", e) for e in encodings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._sock.close()

    def _send(self, data):
        self._sock.sendall(data)

    def _get(self, n):
        got = bytearray()
        while len(got) < n:
            more = self._sock.recv(min(n - len(got), 1 << 20))
            if not more:
                raise ConnectionError("the server closed the connection")
            got += more
        return bytes(got)

    def _u(self, form):
        return struct.unpack(">" + form, self._get(struct.calcsize(">" + form)))

    def _reason(self):
        raise Refused(self._get(self._u("I")[0]).decode())

    def _handshake(self, version, password):
        assert self._get(12) == b"RFB 003.008\n"
        self._send(f"RFB {version}\n".encode())
        if version == "003.003":
            kind, = self._u("I")
            if kind == 0:
                self._reason()
        else:
            kinds = self._get(self._get(1)[0])
            if not kinds:
                self._reason()
            kind = 2 if password is not None else 1
            assert kind in kinds, kinds
            self._send(bytes([kind]))
        if kind == 2:
            self._send(des(password, self._get(16)))
        if kind == 2 or version == "003.008":
            if self._u("I")[0]:
                self._reason() if version == "003.008" else None
                raise Refused("")
        self._send(b"\1")
        self.width, self.height = self._u("HH")
        self._get(16)
        self.name = self._get(self._u("I")[0]).decode()
        self._resize(self.width, self.height)

    def _resize(self, width, height):
        self.width, self.height = width, height
        self.pixels = bytearray(4 * width * height)

    def request(self, incremental=True):
        self._send(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def _put(self, x, y, w, h, data):
        for row in range(h):
            at = 4 * ((y + row) * self.width + x)
            self.pixels[at:at + 4 * w] = data[4 * w * row:4 * w * (row + 1)]

    def _zrle(self, x0, y0, w, h):
        data = self._zlib.decompress(self._get(self._u("I")[0]))
        at = 0

        def pixel():
            nonlocal at
            at += 3
            return data[at - 3:at] + b"\0"

        def run():
            nonlocal at
            total = 1
            while True:
                at += 1
                total += data[at - 1]
                if data[at - 1] != 255:
                    return total

        for y in range(0, h, 64):
            for x in range(0, w, 64):
                tw, th = min(64, w - x), min(64, h - y)
                kind = data[at]
                at += 1
                palette = [pixel() for _ in range(kind & 127)] if kind != 128 else []
                out = bytearray()
                if kind == 0:
                    for _ in range(tw * th):
                        out += pixel()
                elif kind == 1:
                    out += palette[0] * (tw * th)
                elif kind < 128:
                    bits = 1 if kind <= 2 else 2 if kind <= 4 else 4
                    for _ in range(th):
                        n = (tw * bits + 7) // 8
                        row = int.from_bytes(data[at:at + n], "big")
                        at += n
                        for i in range(tw):
                            out += palette[row >> (8 * n - bits * (i + 1)) & (1 << bits) - 1]
                else:
                    while len(out) < 4 * tw * th:
                        if kind == 128:
                            one, count = pixel(), run()
                        else:
                            index = data[at]
                            at += 1
                            one = palette[index & 127]
                            count = run() if index & 128 else 1
                        out += one * count
                self._put(x0 + x, y0 + y, tw, th, out)
        assert at == len(data)

    def update(self):
        """Take messages up to a picture."""
        while True:
            kind, = self._get(1)
            if kind == 0:
                break
            if kind == 2:
                continue
            assert kind == 3, kind
            self._get(3)
            self._get(self._u("I")[0])
        for _ in range(self._u("xH")[0]):
            x, y, w, h, encoding = self._u("HHHHi")
            if encoding == RAW:
                self._put(x, y, w, h, self._get(4 * w * h))
            elif encoding == ZRLE:
                self._zrle(x, y, w, h)
            elif encoding == DESKTOP_SIZE:
                self._resize(w, h)
            else:
                assert encoding == EXT_KEY, encoding

    def screen(self):
        """Ask for all of the screen and take it."""
        size = None
        while size != (self.width, self.height):
            size = self.width, self.height
            self.request(False)
            self.update()
        return self

    def key(self, keysym, down=True):
        self._send(struct.pack(">BBxxI", 4, down, keysym))

    def type(self, text):
        for c in text:
            keysym = {"\n": 0xff0d, "\t": 0xff09}.get(c, ord(c))
            self.key(keysym, True)
            self.key(keysym, False)

    def pointer(self, x, y, buttons=0):
        self._send(struct.pack(">BBHH", 5, buttons, x, y))

    def send_raw(self, data):
        self._send(data)

    # ---- text ----

    def text(self, font=None, width=None):
        """The screen's rows, read as cells of 16 lines; what is no letter is '?'."""
        font = font or vga_font()
        width = width or (9 if self.width % 9 == 0 and self.width % 80 == 0 else 8)
        return "\n".join(self._row(y, width, font).rstrip()
                         for y in range(0, self.height - 15, 16))

    def _row(self, y, width, font):
        lines = [self.pixels[4 * self.width * (y + i):4 * self.width * (y + i + 1)]
                 for i in range(16)]
        return "".join(self._cell(b"".join(line[4 * x:4 * x + 32] for line in lines), font)
                       for x in range(0, self.width - width + 1, width))

    def _cell(self, cell, font):
        """@cell: 16 lines of 8 pixels."""
        if cell not in self._cells:
            dots = [cell[i:i + 3] for i in range(0, len(cell), 4)]
            found = " " if len(set(dots)) == 1 else "?"
            for ink in set(dots) if len(set(dots)) == 2 else ():
                bits = int("".join("01"[d == ink] for d in dots), 2).to_bytes(16, "big")
                found = font.get(bits, found)
            self._cells[cell] = found
        return self._cells[cell]

    def wait_text(self, wanted, seconds):
        """The text of the screen, which has @wanted in it before @seconds are over."""
        end = time.monotonic() + seconds
        while True:
            text = self.screen().text()
            if wanted in text:
                return text
            if time.monotonic() > end:
                raise AssertionError(f"no {wanted!r} on the screen:\n{text}")
            time.sleep(0.1)


_FONT = {}


def vga_font():
    """{the 16 bytes of a cell: its letter}, of the VGA BIOS's 8x16 font."""
    if not _FONT:
        rom = VGABIOS.read_bytes()
        letter_a = bytes.fromhex("000010386cc6c6fec6c6c6c600000000")
        start = rom.index(letter_a) - 16 * ord("A")
        for c in range(0x7e, 0x20, -1):
            _FONT[rom[start + 16 * c:start + 16 * c + 16]] = chr(c)
    return _FONT
