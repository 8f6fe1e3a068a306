"""A digest of rows that does not depend on their order, the same whoever read them.

Each value gets a canonical text by the kind of its column, a row is the texts of the named columns joined, its hash 128 bits
of BLAKE2b, the digest the sum of the hashes modulo 2^128: equal multisets of rows have equal digests, a lost or doubled row
changes it. Beside it a sum of CRC-32 per column, which names the column where two readers differ.

Canonical texts: NULL `null` · integers and decimals in digits (a decimal with its scale's digits) · float and double the bits of
the double, all NaN alike · strings as JSON · dates days, timestamps microseconds since 1970 (UTC where they have no zone) ·
binary, fixed hex · uuid with hyphens · lists `[…]`, structs `{"field":…}` without their NULL fields, maps sorted by key.
"""

import datetime
import decimal
import hashlib
import json
import struct
import zlib

BATCH = 20_000
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


class Digest:
    """Takes rows, as sequences in the order of `columns` (name → kind, in Iceberg's words)."""

    def __init__(self, columns):
        self.names = list(columns)
        self.texts = [text_of(kind) for kind in columns.values()]
        self.rows = 0
        self.sum = 0
        self.sums = [0] * len(self.names)
        self.waiting = []

    def add(self, row):
        self.waiting.append(row)
        if len(self.waiting) >= BATCH:
            self.fold()

    def fold(self):
        if not self.waiting:
            return
        self.rows += len(self.waiting)
        columns = []
        for number, (text, values) in enumerate(zip(self.texts, zip(*self.waiting))):
            canonical = ["null" if value is None else text(value) for value in values]
            self.sums[number] += sum(zlib.crc32(one.encode()) for one in canonical)
            columns.append(canonical)
        for row in zip(*columns):
            hashed = hashlib.blake2b("\x1f".join(row).encode(), digest_size=16).digest()
            self.sum += int.from_bytes(hashed, "big")
        self.waiting = []

    def answer(self):
        self.fold()
        columns = {name: f"{total & 0xFFFFFFFFFFFFFFFF:016x}" for name, total in zip(self.names, self.sums)}
        return {"rows": self.rows, "digest": f"{self.sum % (1 << 128):032x}", "columns": columns}


def text_of(kind):
    """The function that writes a non-NULL value of this kind."""
    kind = kind.strip()
    if kind.startswith("list<"):
        return list_text(text_of(inside(kind)))
    if kind.startswith("struct<"):
        return struct_text([field.split(":", 1) for field in split(inside(kind))])
    if kind.startswith("map<"):
        key, value = split(inside(kind))
        return map_text(text_of(key), text_of(value))
    if kind.startswith("decimal("):
        return decimal_text(int(kind[len("decimal(") : -1].split(",")[1]))
    return SIMPLE["fixed" if kind.startswith("fixed") else kind]


def inside(kind):
    return kind[kind.index("<") + 1 : -1]


def split(text):
    """At the commas that are not within brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in [*parts, text[start:]]]


def integer_text(value):
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f"{value!r} is no integer")
    return str(int(value))


def double_text(value):
    value = float(value)
    return "nan" if value != value else struct.pack(">d", value).hex()


def float_text(value):
    """A 32-bit float, by the bits of the double that equals it."""
    value = float(value)
    return "nan" if value != value else struct.pack(">d", struct.unpack("<f", struct.pack("<f", value))[0]).hex()


def decimal_text(scale):
    unit = decimal.Decimal(1).scaleb(-scale)
    context = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)
    return lambda value: str(decimal.Decimal(str(value)).quantize(unit, context=context))


def boolean_text(value):
    return "true" if value else "false"


def date_text(value):
    if isinstance(value, str):
        value = datetime.date.fromisoformat(value)
    if isinstance(value, int):
        return str(value)
    return str(value.toordinal() - 719_163)


def time_text(value):
    if isinstance(value, str):
        value = datetime.time.fromisoformat(value)
    return str(((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond)


def timestamp_text(value):
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.timezone.utc)
    return str((value - EPOCH) // MICROSECOND)


def binary_text(value):
    return value if isinstance(value, str) else bytes(value).hex()


def uuid_text(value):
    text = bytes(value).hex() if isinstance(value, (bytes, bytearray)) else str(value).replace("-", "").lower()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def list_text(text):
    return lambda values: "[" + ",".join("null" if value is None else text(value) for value in values) + "]"


def struct_text(fields):
    writers = [(name.strip(), json.dumps(name.strip()), text_of(kind)) for name, kind in fields]

    def write(value):
        get = value.get if isinstance(value, dict) else lambda name: value[name]
        present = ((quoted, text, get(name)) for name, quoted, text in writers)
        return "{" + ",".join(f"{quoted}:{text(one)}" for quoted, text, one in present if one is not None) + "}"

    return write


def map_text(key_text, value_text):
    def write(value):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(sorted(f"{key_text(k)}:{'null' if v is None else value_text(v)}" for k, v in pairs)) + "}"

    return write


SIMPLE = {
    "boolean": boolean_text,
    "int": integer_text,
    "long": integer_text,
    "float": float_text,
    "double": double_text,
    "string": json.dumps,
    "date": date_text,
    "time": time_text,
    "timestamp": timestamp_text,
    "timestamptz": timestamp_text,
    "uuid": uuid_text,
    "binary": binary_text,
    "fixed": binary_text,
}
