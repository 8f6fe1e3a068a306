"""JSON file to committed table, against DuckDB's COPY of the same file to one Parquet file: CPU and sizes, in pairs."""

import shutil
import statistics

import inputs
import process

CONFIGURATION = """
state_dir = "{folder}/state"
limits = {{ workers = {threads} }}

[catalog.local]
type = "embedded"
path = "{folder}/catalog.db"
warehouse = "{folder}/warehouse"

[source.rows]
type = "files"
path = "{source}"
until_end = true

[pipeline.rows]
source = "rows"
table = "local.bench.rows"
create = {{ properties = {{ {properties} }} }}
commit = {{ freshness = "1h" }}
"""

# DuckDB makes one page of a row group's column: 64 MB of our events' text. The larger a page, the more repetition the
# compressor sees, and the more a reader must unpack for one row. Iceberg's default is 1 MiB.
LARGE_PAGES = '"write.parquet.page-size-bytes" = "8388608"'

# Its own start is not counted, ours is.
COPY = """
import os, resource, sys, duckdb
source, target, threads = sys.argv[1:]
duckdb.sql(f"SET threads = {threads}; SET enable_progress_bar = false")
before = resource.getrusage(resource.RUSAGE_SELF)
duckdb.sql(f"COPY (FROM read_json('{source}')) TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3)")
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)
# Not the wait for its memory to be taken apart.
os._exit(0)
"""

COUNT = """
import sys, duckdb
print(duckdb.sql(f"SELECT count(*) FROM read_parquet({sys.argv[1:]})").fetchone()[0])
"""


class Ingest:
    """One input, copied by both, again and again."""

    def __init__(self, place, title, source, target, properties=""):
        self.place, self.title, self.source, self.target = place, title, source, target
        self.properties = properties
        self.ours, self.theirs, self.peaks, self.ratios = [], [], [], []

    def run(self, pairs):
        self.source_bytes = self.source.stat().st_size
        self.rows = count_lines(self.source)  # and the file is in the page cache
        for pair in range(pairs + 1):
            ours, our_bytes = self.frazil()
            theirs, their_bytes = self.duckdb()
            if pair == 0:
                continue  # warming up
            self.ours.append(ours.cpu)
            self.peaks.append(ours.peak)
            self.theirs.append(theirs)
            self.ratios.append(ours.cpu / theirs)
            self.sizes = (our_bytes, their_bytes)
        return self

    def frazil(self):
        folder = self.place.folder / "table"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        # The source follows folders: the file gets one of its own.
        (folder / "in" / self.source.name).hardlink_to(self.source)
        settings = folder / "frazil.toml"
        values = {"folder": folder, "source": folder / "in", "threads": self.place.threads, "properties": self.properties}
        settings.write_text(CONFIGURATION.format(**values), encoding="utf-8")
        cost = process.measure([self.place.frazil, "run", "-c", settings], folder / "log")
        files = sorted((folder / "warehouse").rglob("*.parquet"))
        self.check(files)
        return cost, sum(file.stat().st_size for file in files)

    def duckdb(self):
        target = self.place.folder / "copy.parquet"
        target.unlink(missing_ok=True)
        log = self.place.folder / "duckdb.log"
        process.measure([self.place.duckdb, "-c", COPY, self.source, target, str(self.place.threads)], log)
        return float(log.read_text(encoding="ascii").split()[-1]), target.stat().st_size

    def check(self, files):
        log = self.place.folder / "count.log"
        process.measure([self.place.duckdb, "-c", COUNT, *map(str, files)], log)
        found = int(log.read_text(encoding="ascii"))
        if found != self.rows:
            raise process.Failure(f"{self.title}: {found} rows in the table, {self.rows} in the input")

    def lines(self):
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        ratio = statistics.median(self.ratios)
        megabytes = self.source_bytes / 1e6
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return [
            f"{self.title}: {self.rows} rows, {megabytes:.0f} MB of JSON, {self.place.threads} threads, {len(self.ratios)} pairs",
            f"    frazil  {ours:6.2f} CPU-s  {megabytes / ours:5.0f} MB/CPU-s  {self.sizes[0] / 1e6:7.1f} MB of files"
            f"  peak {statistics.median(self.peaks):.0f} MiB",
            f"    DuckDB  {theirs:6.2f} CPU-s  {megabytes / theirs:5.0f} MB/CPU-s  {self.sizes[1] / 1e6:7.1f} MB of files",
            f"    ratio of CPU {ratio:.2f} ({spread}), target {self.target}: {'holds' if ratio <= self.target else 'MISSED'}; "
            f"ratio of size {self.sizes[0] / self.sizes[1]:.2f}",
        ]


def count_lines(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def run(place, sizes):
    events = inputs.events(place.inputs, sizes.rows)
    cases = [
        ("lineitem", inputs.lineitem(place.inputs, sizes.scale, place.tpchgen, place.duckdb), 1.2, ""),
        ("1 KB events", events, 0.9, ""),
        ("1 KB events, pages of 8 MiB", events, 0.9, LARGE_PAGES),
    ]
    for case in cases:
        yield Ingest(place, *case).run(sizes.pairs).lines()
