"""Rows of the 1 KB class into two topics, as JSON and as Avro with each field a union with null: by the same producer, so that
batches are alike. Reads their JSON, one a line, from standard input."""

import datetime
import json
import struct
import sys

from confluent_kafka import Producer

KINDS = {"long": ("seq", "user_id", "quantity"), "double": ("amount",), "micros": ("event_time",), "millis": ("received_ms",)}
KIND = {name: kind for kind, names in KINDS.items() for name in names}
SCHEMA = {
    "long": "long",
    "double": "double",
    "micros": {"type": "long", "logicalType": "timestamp-micros"},
    "millis": {"type": "long", "logicalType": "timestamp-millis"},
    "string": "string",
}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def varint(number):
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(name, value):
    kind = KIND.get(name, "string")
    if kind == "double":
        return b"\x02" + struct.pack("<d", value)
    if kind == "string":
        text = value.encode()
        return b"\x02" + varint(len(text)) + text
    if kind == "micros":
        value = (datetime.datetime.fromisoformat(value) - EPOCH) // MICROSECOND
    return b"\x02" + varint(value)


def send(producer, topic, value):
    while True:
        try:
            producer.produce(topic, value)
            break
        except BufferError:
            producer.poll(0.1)
    producer.poll(0)


def main():
    brokers, plain, avro, schema_file = sys.argv[1:]
    settings = {"compression.type": "zstd", "linger.ms": 50, "batch.size": 262144, "queue.buffering.max.kbytes": 65536}
    producer = Producer({"bootstrap.servers": brokers, **settings})
    names = None
    for line in sys.stdin:
        row = json.loads(line)
        if names is None:
            names = list(row)
            fields = [{"name": name, "type": ["null", SCHEMA[KIND.get(name, "string")]]} for name in names]
            with open(schema_file, "w", encoding="ascii") as out:
                json.dump({"type": "record", "name": "Event", "fields": fields}, out)
        send(producer, plain, line.rstrip("\n").encode())
        send(producer, avro, b"".join(field(name, row[name]) for name in names))
    if left := producer.flush(60):
        sys.exit(f"{left} rows were not taken")


main()
