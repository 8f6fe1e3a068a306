"""Compaction: many small files of lineitem into one, against DuckDB's read and COPY of the same files, and against Spark's
`rewrite_data_files` where Spark wrote them.
"""

import json
import pathlib
import shutil
import statistics

import foreign
import inputs
import process
from ingest import COUNT, count_lines

FILES = 300
FASTER, COPY_RATIO = 5, 1.3

SHARED = """
state_dir = "{folder}"
limits = {{ workers = {threads} }}

[catalog.lake]
type = "rest"
uri = "{uri}"
"""

PATHS = "SELECT file_path FROM lake.bench.{}.files"
REWRITE = "CALL lake.system.rewrite_data_files(table => '{}')"
SUMS = "SELECT count(*), sum(l_orderkey), sum(l_extendedprice), sum(hash(*)) FROM lake.bench.{}"

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
    yield own(place, sizes)
    yield beside_spark(place, sizes)


def duckdb(place, files):
    """CPU-seconds of DuckDB's read and COPY; what it wrote."""
    target, log = place.folder / "one.parquet", place.folder / "duckdb.log"
    process.measure([place.duckdb, "-c", COPY, target, str(place.threads), *map(str, files)], log)
    return float(log.read_text(encoding="ascii").split()[-1]), target


def own(place, sizes):
    """Files that we wrote, in a catalog of ours."""
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
        other, target = duckdb(place, small)
        if pair > 0:  # the first warms up
            ours.append(cost.cpu)
            walls.append(cost.wall)
            peaks.append(cost.peak)
            theirs.append(other)
    shutil.copy(again, folder / "catalog.db")
    whole = files_of(place, settings)
    check(place, whole, rows)
    after = sum(file.stat().st_size for file in whole)
    ratio = statistics.median(own / other for own, other in zip(ours, theirs))
    return [
        f"compact: {len(small)} files of {before / 1e6:.0f} MB, {rows} rows, into {len(whole)} of {after / 1e6:.0f} MB",
        f"    frazil  {statistics.median(ours):6.2f} CPU-s  {statistics.median(walls):6.2f} s  peak {max(peaks):.0f} MiB",
        f"    DuckDB  {statistics.median(theirs):6.2f} CPU-s  {target.stat().st_size / 1e6:.0f} MB",
        f"    ratio of CPU {ratio:.2f} ({len(ours)} pairs)",
    ]


def beside_spark(place, sizes):
    """Files that Spark wrote, in a catalog that both reach: it rewrites one table of them, we another of the same files."""
    rows = inputs.lineitem_parquet(place.inputs, sizes.scale, place.tpchgen)
    with foreign.lake(place) as lake:
        lake.spark(load=str(rows), table="lake.bench.source", files=FILES)
        start = lake.location("source")
        small = [pathlib.Path(row[0].removeprefix("file:")) for row in lake.spark(sql=PATHS.format("source"))["rows"]]
        count = lake.spark(sql="SELECT count(*) FROM lake.bench.source")["rows"][0][0]
        settings = place.folder / "lake.toml"
        words = {"folder": place.folder / "lake-state", "threads": place.threads, "uri": lake.uri}
        settings.write_text(SHARED.format(**words), encoding="utf-8")
        ours, theirs, copies = [], [], []
        for pair in range(sizes.pairs + 1):
            lake.register(f"ours_{pair}", start)
            lake.register(f"spark_{pair}", start)
            cost = process.measure([place.frazil, "compact", f"bench.ours_{pair}", "-c", settings], place.folder / "compact.log")
            other = lake.spark(sql=REWRITE.format(f"bench.spark_{pair}"))
            copied, target = duckdb(place, small)
            if pair > 0:  # the first warms up
                ours.append(cost)
                theirs.append(other)
                copies.append(copied)
        kept = {}
        for name in (f"ours_{pair}", f"spark_{pair}"):
            found = lake.spark(sql=SUMS.format(name))["rows"]
            if found != lake.spark(sql=SUMS.format("source"))["rows"]:
                raise process.Failure(f"{name} has other rows than the source: {found}")
            kept[name] = [pathlib.Path(row[0].removeprefix("file:").replace("//", "/")) for row in lake.spark(sql=PATHS.format(name))["rows"]]
            check(place, kept[name], int(count))
    sizes_of = [sum(file.stat().st_size for file in files) / 1e6 for files in (small, *kept.values())]
    walls = statistics.median(other["wall"] / own.wall for own, other in zip(ours, theirs))
    cpus = statistics.median(other["cpu"] / own.cpu for own, other in zip(ours, theirs))
    copy = statistics.median(own.cpu / other for own, other in zip(ours, copies))
    middle = statistics.median
    return [
        f"compact: {len(small)} files of {sizes_of[0]:.0f} MB by Spark, {count} rows, into {len(kept[f'ours_{pair}'])} of {sizes_of[1]:.0f} MB",
        f"    frazil  {middle(c.wall for c in ours):6.2f} s  {middle(c.cpu for c in ours):6.2f} CPU-s  peak {max(c.peak for c in ours):.0f} MiB",
        f"    Spark   {middle(t['wall'] for t in theirs):6.2f} s  {middle(t['cpu'] for t in theirs):6.2f} CPU-s  {sizes_of[2]:.0f} MB in {len(kept[f'spark_{pair}'])}",
        f"    DuckDB                {middle(copies):6.2f} CPU-s  {target.stat().st_size / 1e6:.0f} MB",
        f"    {walls:.1f} times as fast as Spark, target {FASTER}: {'holds' if walls >= FASTER else 'MISSED'}; {cpus:.1f} times less CPU",
        f"    ratio of CPU to DuckDB {copy:.2f}, target {COPY_RATIO}: {'holds' if copy <= COPY_RATIO else 'MISSED'} ({len(ours)} pairs)",
    ]
