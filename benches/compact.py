"""Compaction: many small files of lineitem into one, against DuckDB's read and COPY of the same files."""

import json
import pathlib
import shutil
import statistics

import inputs
import process
from ingest import COUNT, count_lines

FILES = 300

CONFIGURATION = """
state_dir = "{folder}/state"
limits = {{ workers = {threads} }}

[catalog.local]
type = "embedded"
path = "{folder}/catalog.db"
warehouse = "{folder}/warehouse"

[source.rows]
type = "files"
path = "{folder}/in"
until_end = true

[pipeline.rows]
source = "rows"
table = "local.bench.rows"
commit = {{ freshness = "1h", rows_max = {rows_max} }}
"""

# Its own start is not counted, ours is.
COPY = """
import os, resource, sys, duckdb
target, threads, *files = sys.argv[1:]
duckdb.sql(f"SET threads = {threads}; SET enable_progress_bar = false")
before = resource.getrusage(resource.RUSAGE_SELF)
duckdb.sql(f"COPY (FROM read_parquet({files})) TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3)")
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)
os._exit(0)
"""


def files_of(place, settings):
    """The live data files of the table, as it says itself."""
    log = place.folder / "files.json"
    process.measure([place.frazil, "table", "files", "bench.rows", "--json", "-c", settings], log)
    shown = json.loads(log.read_text(encoding="utf-8"))
    return [pathlib.Path(file["path"].removeprefix("file://")) for file in shown["files"]]


def check(place, files, rows):
    log = place.folder / "count.log"
    process.measure([place.duckdb, "-c", COUNT, *map(str, files)], log)
    found = int(log.read_text(encoding="ascii"))
    if found != rows:
        raise process.Failure(f"compaction: {found} rows in the table, {rows} in the input")


def run(place, sizes):
    source = inputs.lineitem(place.inputs, sizes.scale, place.tpchgen, place.duckdb)
    rows = count_lines(source)
    folder = place.folder / "small"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / source.name).hardlink_to(source)
    settings = folder / "frazil.toml"
    values = {"folder": folder, "threads": place.threads, "rows_max": -(-rows // FILES)}
    settings.write_text(CONFIGURATION.format(**values), encoding="utf-8")
    process.measure([place.frazil, "run", "-c", settings], place.folder / "log")
    small = files_of(place, settings)
    check(place, small, rows)
    before = sum(file.stat().st_size for file in small)
    ours, theirs, walls, peaks = [], [], [], []
    for pair in range(sizes.pairs + 1):
        again = place.folder / "again.db"
        shutil.copy(folder / "catalog.db", again)
        words = [place.frazil, "compact", "--embedded", again, "--warehouse", folder / "warehouse"]
        words += ["--set", f"state_dir={place.folder / 'state'}", "--set", f"limits.workers={place.threads}"]
        cost = process.measure([*words, "bench.rows"], place.folder / "compact.log")
        target, log = place.folder / "one.parquet", place.folder / "duckdb.log"
        process.measure([place.duckdb, "-c", COPY, target, str(place.threads), *map(str, small)], log)
        if pair > 0:  # the first warms up
            ours.append(cost.cpu)
            walls.append(cost.wall)
            peaks.append(cost.peak)
            theirs.append(float(log.read_text(encoding="ascii").split()[-1]))
    shutil.copy(again, folder / "catalog.db")
    whole = files_of(place, settings)
    check(place, whole, rows)
    after = sum(file.stat().st_size for file in whole)
    ratio = statistics.median(own / other for own, other in zip(ours, theirs))
    yield [
        f"compact: {len(small)} files of {before / 1e6:.0f} MB, {rows} rows, into {len(whole)} of {after / 1e6:.0f} MB",
        f"    frazil  {statistics.median(ours):6.2f} CPU-s  {statistics.median(walls):6.2f} s  peak {max(peaks):.0f} MiB",
        f"    DuckDB  {statistics.median(theirs):6.2f} CPU-s  {target.stat().st_size / 1e6:.0f} MB",
        f"    ratio of CPU {ratio:.2f} ({len(ours)} pairs)",
    ]
