#!/usr/bin/env python3
"""Unpack the ELF kernel inside a bzImage.

usage: unpack_vmlinux.py BZIMAGE OUTPUT

The setup header (Linux boot protocol, 2.08 on) tells where the compressed payload
is: payload_offset and payload_length count from the protected-mode code. xz, gzip,
zstd and lz4 are told apart by their magic; zstd needs the zstd program, lz4 is
unpacked here, as Python has no module for either.
"""

import lzma
import struct
import subprocess
import sys
import zlib


def lz4_block(block, out):
    """Append one LZ4 block: literals and matches in what is already there."""
    pos, end, start = 0, len(block), len(out)

    def more(n, pos):
        if n == 15:
            while True:
                n += block[pos]
                pos += 1
                if block[pos - 1] != 255:
                    break
        return n, pos

    while pos < end:
        token = block[pos]
        n, pos = more(token >> 4, pos + 1)
        out += block[pos:pos + n]
        pos += n
        if pos >= end:
            break
        back = block[pos] | block[pos + 1] << 8
        n, pos = more(token & 15, pos + 2)
        n += 4
        at = len(out) - back
        if back == 0 or at < start:
            raise ValueError("LZ4 match before the start of its block")
        if back >= n:
            out += out[at:at + n]
        else:
            out += (bytes(out[at:]) * (n // back + 1))[:n]


def lz4_legacy(data):
    """The format of lz4 -l: after the magic, 32-bit sizes and independent blocks."""
    out, pos = bytearray(), 4
    while pos + 4 <= len(data):
        size, = struct.unpack_from("<I", data, pos)
        block = data[pos + 4:pos + 4 + size]
        if len(block) != size:
            break       # the unpacked size that the kernel's build appends
        lz4_block(block, out)
        pos += 4 + size
    return bytes(out)


def unpack(image):
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise ValueError("no Linux setup header")
    version, = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        raise ValueError("boot protocol %x is older than 2.08" % version)
    setup_sects = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = image[start:start + length]
    if len(payload) != length:
        raise ValueError("payload is past the end of the file")
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(payload)
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(payload)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        # The last four bytes are the unpacked size, not part of the frame.
        return subprocess.run(["zstd", "-dc"], input=payload[:-4], check=True,
                              stdout=subprocess.PIPE).stdout
    if payload[:4] == b"\x02\x21\x4c\x18":
        return lz4_legacy(payload)
    raise ValueError("unknown compression %s" % payload[:4].hex())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], "rb") as f:
            elf = unpack(f.read())
    except (OSError, ValueError, IndexError, lzma.LZMAError, zlib.error,
            subprocess.CalledProcessError) as e:
        sys.exit("unpack_vmlinux.py: %s: %s" % (sys.argv[1], e))
    if elf[:4] != b"\x7fELF":
        sys.exit("unpack_vmlinux.py: %s: the payload is no ELF file" % sys.argv[1])
    with open(sys.argv[2], "wb") as f:
        f.write(elf)


if __name__ == "__main__":
    main()
