#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""AES-256-XTS from the block cipher up, as IEEE 1619 defines it: independent of what the filter uses.

xts.py KEYFILE SECTOR encrypt|decrypt IN OUT
SECTOR: 512 or 4096 bytes of a data unit; its tweak is the number of 512 bytes before it. A sector of zeroes is a hole.
"""
import sys

from Cryptodome.Cipher import AES


def tweaks(cipher, number, blocks):
    t = int.from_bytes(cipher.encrypt(number.to_bytes(16, "little")), "little")
    for _ in range(blocks):
        yield t.to_bytes(16, "little")
        t <<= 1
        if t >> 128:
            t = (t & ((1 << 128) - 1)) ^ 0x87


def xor(a, b):
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def main():
    keyfile, sector, what, source, target = sys.argv[1:]
    with open(keyfile, "rb") as f:
        key = f.read()
    sector = int(sector)
    data, tweak = AES.new(key[:32], AES.MODE_ECB), AES.new(key[32:], AES.MODE_ECB)
    with open(source, "rb") as f, open(target, "wb") as out:
        number = 0
        while unit := f.read(sector):
            mask = b"".join(tweaks(tweak, number, sector // 16))
            if what == "decrypt" and not any(unit):
                out.write(unit)
            elif what == "decrypt":
                out.write(xor(data.decrypt(xor(unit, mask)), mask))
            else:
                out.write(xor(data.encrypt(xor(unit, mask)), mask))
            number += sector // 512


main()
