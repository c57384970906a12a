"""Writers of image formats that are only read: bochs, cloop and dmg."""
import base64
import bz2
import lzma
import struct
import zlib

SECTOR = 512


def bochs(path, size, sectors, extent=64 * SECTOR, bitmap=SECTOR, version=0x20000):
    """A growing image in which @sectors, number: bytes, were written."""
    count = -(-size // extent)
    head = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0")
    head += b"Growing".ljust(16, b"\0")
    head += struct.pack("<IIIII", version, SECTOR, count, bitmap, extent)
    head += struct.pack("<Q", size) if version == 0x10000 else struct.pack("<IQ", 0, size)
    catalog, body, per = [0xffffffff] * count, b"", extent // SECTOR
    extents = {}
    for number, data in sectors.items():
        extents.setdefault(number // per, {})[number % per] = data
    for where, (number, written) in enumerate(extents.items()):
        catalog[number] = where
        bits, area = bytearray(-(-bitmap // SECTOR) * SECTOR), bytearray(extent)
        for s, data in written.items():
            bits[s // 8] |= 1 << s % 8
            area[s * SECTOR:(s + 1) * SECTOR] = data
        body += bytes(bits) + bytes(area)
    path.write_bytes(head.ljust(SECTOR, b"\0") + struct.pack(f"<{count}I", *catalog) + body)
    disk = bytearray(size)
    for number, data in sectors.items():
        disk[number * SECTOR:(number + 1) * SECTOR] = data
    return bytes(disk)


def cloop(path, data, block=65536):
    """@data in blocks, the last one filled up with zeros."""
    data = data.ljust(-(-len(data) // block) * block, b"\0")
    blocks = [zlib.compress(data[i:i + block]) for i in range(0, len(data), block)]
    script = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    offsets = [136 + 8 * (len(blocks) + 1)]
    for stored in blocks:
        offsets.append(offsets[-1] + len(stored))
    path.write_bytes(script.ljust(128, b"\0") + struct.pack(">II", block, len(blocks)) +
                     struct.pack(f">{len(offsets)}Q", *offsets) + b"".join(blocks))
    return data


ZERO, RAW, IGNORE = 0, 1, 2
ADC, ZLIB, BZIP2, LZFSE, XZ = (0x80000004 + i for i in range(5))
COMMENT, END = 0x7ffffffe, 0xffffffff


def adc(data):
    """Runs of one byte as copies of it, the rest as it is."""
    out, i = b"", 0
    while i < len(data):
        run = 1
        while run < 67 and data[i:i + 1] == data[i + run:i + run + 1]:
            run += 1
        if i and data[i - 1] == data[i] and run >= 4:
            out += bytes([0x40 | run - 4, 0, 0])
            i += run
        elif i and data[i - 1] == data[i] and run == 3:
            out += bytes([0, 0])
            i += 3
        else:
            out += bytes([0x80, data[i]])
            i += 1
    return out


PACK = {ZERO: lambda b: b"", RAW: bytes, IGNORE: lambda b: b"", ADC: adc,
        ZLIB: zlib.compress, BZIP2: bz2.compress, XZ: lzma.compress, LZFSE: lambda b: b"bvx$"}


def dmg(path, chunks, fork=False, data_at=0, part_at=0, parts=1, tail=b""):
    """
    @chunks, kind and bytes, in @parts; described by a resource fork or a property list.
    The data fork begins at @data_at, each part's data @part_at after that.
    """
    body, sector, per = bytes(data_at + part_at), 0, -(-len(chunks) // parts)
    blocks = []
    for first in range(0, len(chunks), per):
        start, entries = sector, [struct.pack(">II32s", COMMENT, 0, b"")]
        for kind, data in chunks[first:first + per]:
            stored, count = PACK[kind](data), len(data) // SECTOR
            entries.append(struct.pack(">IIQQQQ", kind, 0, sector - start, count,
                                       len(body) - data_at - part_at, len(stored)))
            body += stored
            sector += count
        entries.append(struct.pack(">II32s", END, 0, b""))
        head = struct.pack(">4sIQQQ", b"mish", 1, start, sector - start, part_at)
        blocks.append(head.ljust(200, b"\0") + struct.pack(">I", len(entries)) +
                      b"".join(entries))
    at = len(body)
    if fork:
        data = b"".join(struct.pack(">I", len(b)) + b for b in blocks)
        meta = struct.pack(">IIII", 256, 256 + len(data), len(data), 50).ljust(256, b"\0")
        meta += data + bytes(50)
    else:
        meta = b"<plist><dict><key>blkx</key><array>"
        for b in blocks:
            meta += b"<dict><data>\n" + base64.encodebytes(b) + b"</data></dict>"
        meta += b"</array></dict></plist>"
    koly = bytearray(SECTOR)
    struct.pack_into(">4sIII", koly, 0, b"koly", 4, SECTOR, 1)
    struct.pack_into(">QQ", koly, 24, data_at, at - data_at)
    struct.pack_into(">QQ", koly, 40 if fork else 216, at, len(meta))
    struct.pack_into(">Q", koly, 492, sector)
    path.write_bytes(body + meta + bytes(koly) + tail)
    return b"".join(data for _, data in chunks)
