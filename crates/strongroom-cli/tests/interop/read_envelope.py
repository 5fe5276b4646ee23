"""Reads a sealed file of Strongroom, written from docs/format.md and from nothing else.

Usage: read_envelope.py KEY_FILE SEALED_FILE [RECORD_KEY]
"""

import base64
import hmac
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key, salt, info, length):
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def read_keys(text):
    for line in text.replace(",", "\n").splitlines():
        key = line.split("#")[0].strip().removeprefix("strongroom-key-1:")
        if key:
            yield base64.b64decode(key.translate(str.maketrans("-_", "+/")).rstrip("=") + "=")


def open_envelope(data, keys, record_key=b""):
    magic, version, contents, source, zero, p, n, key_id, salt, check = struct.unpack_from(
        ">8sBBBBIQ16s32s32s", data
    )
    assert magic == b"\x89STRONG\n" and version == 1 and zero == 0 and p <= 1024
    assert contents == (2 if record_key else 1), "another kind of contents"
    header, body = data[: 104 + p], data[104 + p :]
    assert len(body) == n + 16, "truncated or tampered"
    by_id = {derive(key, None, b"strongroom key id 1", 16): key for key in keys}
    derived = derive(by_id[key_id], salt, b"strongroom envelope 1", 64)
    assert hmac.compare_digest(derived[32:], check), "wrong key"
    return AESGCM(derived[:32]).decrypt(bytes(12), body, header + record_key)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        keys = list(read_keys(file.read()))
    with open(sys.argv[2], "rb") as file:
        data = file.read()
    record_key = sys.argv[3].encode() if len(sys.argv) > 3 else b""
    sys.stdout.buffer.write(open_envelope(data, keys, record_key))
