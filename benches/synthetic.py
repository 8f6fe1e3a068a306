"""Tables that are written here byte by byte, because no engine makes 5,000 snapshots in seconds: true metadata, lists and manifests
(format version 2, deflated Avro), with data files of one byte, or of none that exist where they are only planned.
"""

import json
import random
import uuid
import zlib

COLUMNS = 13
START_MS = 1_760_000_000_000
SYNC = b"frazil-benches-0"

MAPS = [
    (108, 117, 118, "column_sizes", "long"),
    (109, 119, 120, "value_counts", "long"),
    (110, 121, 122, "null_value_counts", "long"),
    (125, 126, 127, "lower_bounds", "bytes"),
    (128, 129, 130, "upper_bounds", "bytes"),
]


def column(number, name, kind, required=False):
    """A field of a record, as Iceberg's schemas have it."""
    if required:
        return {"name": name, "type": kind, "field-id": number}
    return {"name": name, "type": ["null", kind], "default": None, "field-id": number}


def pairs(key, value, kind):
    """A map by column id: an array of records, because Avro's own have texts for keys."""
    fields = [column(key, "key", "int", True), column(value, "value", kind, True)]
    items = {"type": "record", "name": f"k{key}_v{value}", "fields": fields}
    return {"type": "array", "logicalType": "map", "items": items}


def entry_schema(partitioned):
    part = [column(1000, "day", "int")] if partitioned else []
    file = [
        column(134, "content", "int", True),
        column(100, "file_path", "string", True),
        column(101, "file_format", "string", True),
        column(102, "partition", {"type": "record", "name": "r102", "fields": part}, True),
        column(103, "record_count", "long", True),
        column(104, "file_size_in_bytes", "long", True),
        *(column(number, name, pairs(key, value, kind)) for number, key, value, name, kind in MAPS),
        column(132, "split_offsets", {"type": "array", "items": "long", "element-id": 133}),
        column(140, "sort_order_id", "int"),
    ]
    fields = [
        column(0, "status", "int", True),
        column(1, "snapshot_id", "long"),
        column(3, "sequence_number", "long"),
        column(4, "file_sequence_number", "long"),
        column(2, "data_file", {"type": "record", "name": "r2", "fields": file}, True),
    ]
    return {"type": "record", "name": "manifest_entry", "fields": fields}


LIST_FIELDS = [
    (500, "manifest_path", "string"), (501, "manifest_length", "long"), (502, "partition_spec_id", "int"),
    (517, "content", "int"), (515, "sequence_number", "long"), (516, "min_sequence_number", "long"),
    (503, "added_snapshot_id", "long"), (504, "added_files_count", "int"), (505, "existing_files_count", "int"),
    (506, "deleted_files_count", "int"), (512, "added_rows_count", "long"), (513, "existing_rows_count", "long"),
    (514, "deleted_rows_count", "long"),
]
LIST_SCHEMA = {
    "type": "record", "name": "manifest_file", "fields": [column(*field, True) for field in LIST_FIELDS],
}


def long(value):
    """A number, as Avro has it: zig-zag, seven bits a byte."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return long(len(value)) + value


def some(value):
    """The second branch of a union with null."""
    return b"\x02" + value


def container(schema, rows, header):
    """An Avro file with blocks of a thousand rows."""
    header = {"avro.schema": json.dumps(schema), "avro.codec": "deflate", "format-version": "2", **header}
    out = bytearray(b"Obj\x01" + long(len(header)))
    for key, value in header.items():
        out += text(key) + text(value)
    out += long(0) + SYNC
    for at in range(0, len(rows), 1000):
        part = rows[at : at + 1000]
        squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
        block = squeeze.compress(b"".join(part)) + squeeze.flush()
        out += long(len(part)) + text(block) + SYNC
    return bytes(out)


def metrics(draw):
    """What an entry says of its columns: sizes, counts, nulls, and bounds of 16 characters."""

    def item(at, kind):
        return long(at) + (long(draw.randrange(1_000_000)) if kind == "long" else text(f"{draw.getrandbits(64):016x}"))

    maps = [[item(at, kind) for at in range(1, COLUMNS + 1)] for *_, kind in MAPS]
    maps = [some(long(COLUMNS) + b"".join(items) + long(0)) for items in maps]
    return b"".join(maps) + some(long(1) + long(4) + long(0)) + some(long(0))


class File:
    """A data file as manifests name it."""

    def __init__(self, path, day, size, described):
        self.path = path
        self.size = size
        part = b"" if day is None else some(long(day))
        self.row = long(0) + text(path) + text("PARQUET") + part + long(ROWS) + long(size) + described


ROWS = 10_000
ADDED, DELETED = 1, 2


class Table:
    """A table under way in a folder; `objects`: its data files are made too."""

    def __init__(self, folder, seed, days=0, objects=True):
        self.folder, self.days, self.objects = folder, days, objects
        self.draw = random.Random(seed)
        self.described = [metrics(self.draw) for _ in range(199)]
        (folder / "metadata").mkdir(parents=True)
        (folder / "data").mkdir()
        self.snapshots, self.manifests, self.made = [], [], 0
        self.totals = {"files": 0, "bytes": 0}
        fields = [{"id": at, "name": f"c{at}", "required": False, "type": "string"} for at in range(1, COLUMNS + 1)]
        fields.append({"id": COLUMNS + 1, "name": "day", "required": False, "type": "int"})
        self.schema = {"type": "struct", "schema-id": 0, "fields": fields}
        part = {"source-id": COLUMNS + 1, "field-id": 1000, "name": "day", "transform": "identity"}
        self.spec = [part] if days else []
        self.entries = entry_schema(bool(days))
        self.header = {
            "schema": json.dumps(self.schema), "schema-id": "0", "partition-spec": json.dumps(self.spec),
            "partition-spec-id": "0", "content": "data",
        }

    def file(self, size=4_000_000):
        """A new data file; what manifests say of its size is not what it has."""
        name = f"00000-{self.draw.getrandbits(128):032x}-{self.made:07d}.parquet"
        self.made += 1
        day = self.draw.randrange(self.days) if self.days else None
        folder = self.folder / "data"
        path = f"{folder}/{name}" if day is None else f"{folder}/day={day}/{name}"
        if self.objects:
            with open(path, "wb") as out:
                out.write(b"0")
        return File(f"file://{path}", day, size, self.described[self.made % len(self.described)])

    def manifest(self, status, files):
        """Writes a manifest of the snapshot that is being made."""
        snapshot, seq = self.next()
        begins = long(status) + some(long(snapshot)) + some(long(seq)) + some(long(seq))
        path = f"{self.folder}/metadata/{snapshot}-m{self.draw.getrandbits(64):016x}.avro"
        body = container(self.entries, [begins + file.row for file in files], self.header)
        with open(path, "wb") as out:
            out.write(body)
        added, deleted = (len(files), 0) if status == ADDED else (0, len(files))
        counts = [added, 0, deleted, added * ROWS, 0, deleted * ROWS]
        numbers = [len(body), 0, 0, seq, seq, snapshot, *counts]
        return text(f"file://{path}") + b"".join(map(long, numbers))

    def next(self):
        seq = len(self.snapshots) + 1
        return 1_000_000_000_000_000 + seq, seq

    def commit(self, operation, manifests, added, removed=()):
        """A snapshot of these manifests: rows of its list."""
        snapshot, seq = self.next()
        path = f"{self.folder}/metadata/snap-{snapshot}-1-{self.draw.getrandbits(64):016x}.avro"
        with open(path, "wb") as out:
            out.write(container(LIST_SCHEMA, manifests, {"snapshot-id": str(snapshot), "sequence-number": str(seq)}))
        self.totals["files"] += len(added) - len(removed)
        self.totals["bytes"] += sum(file.size for file in added) - sum(file.size for file in removed)
        summary = {
            "operation": operation, "added-data-files": str(len(added)), "deleted-data-files": str(len(removed)),
            "total-data-files": str(self.totals["files"]), "total-files-size": str(self.totals["bytes"]),
            "total-records": str(self.totals["files"] * ROWS), "total-delete-files": "0",
        }
        made = {
            "snapshot-id": snapshot, "sequence-number": seq, "timestamp-ms": START_MS + seq * 60_000,
            "summary": summary, "manifest-list": f"file://{path}", "schema-id": 0,
        }
        if self.snapshots:
            made["parent-snapshot-id"] = self.snapshots[-1]["snapshot-id"]
        self.snapshots.append(made)

    def finish(self):
        """Writes the metadata document; its location."""
        last = self.snapshots[-1]
        stamps = [{"snapshot-id": s["snapshot-id"], "timestamp-ms": s["timestamp-ms"]} for s in self.snapshots]
        document = {
            "format-version": 2, "table-uuid": str(uuid.UUID(int=self.draw.getrandbits(128), version=4)),
            "location": f"file://{self.folder}", "last-sequence-number": len(self.snapshots),
            "last-updated-ms": last["timestamp-ms"], "last-column-id": COLUMNS + 1, "current-schema-id": 0,
            "schemas": [self.schema], "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": self.spec}],
            "last-partition-id": 1000, "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": {}, "current-snapshot-id": last["snapshot-id"], "snapshots": self.snapshots,
            "refs": {"main": {"snapshot-id": last["snapshot-id"], "type": "branch"}}, "snapshot-log": stamps,
            "metadata-log": [], "statistics": [], "partition-statistics": [],
        }
        path = self.folder / "metadata" / f"00000-{document['table-uuid']}.metadata.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return f"file://{path}"


def history(folder, snapshots, each, objects=True):
    """A stream's table: every commit adds `each` files, every fiftieth rewrites those since the one before into one."""
    table = Table(folder, snapshots, objects=objects)
    whole, small, files = [], [], []
    for at in range(1, snapshots + 1):
        if at % 50:
            added = [table.file() for _ in range(each)]
            small.append(table.manifest(ADDED, added))
            files += added
            table.commit("append", small[::-1] + whole, added)
        else:
            added = [table.file(400_000_000)]
            gone = table.manifest(DELETED, files)
            whole.insert(0, table.manifest(ADDED, added))
            table.commit("replace", [gone, *whole], added, files)
            small, files = [], []
    return table.finish()


def wide(folder, files, days):
    """One snapshot of many files, most of them small, in partitions; the files are not there."""
    table = Table(folder, files, days=days, objects=False)
    manifests, added = [], []
    for at in range(0, files, 20_000):
        sizes = [table.draw.choice((2, 4, 8, 16, 500)) * 1_000_000 for _ in range(min(20_000, files - at))]
        part = [table.file(size) for size in sizes]
        manifests.append(table.manifest(ADDED, part))
        for file in part:
            file.row = b""
        added += part
    table.commit("append", manifests, added)
    return table.finish()
