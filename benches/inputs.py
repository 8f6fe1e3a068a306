"""The rows that benchmarks read, as NDJSON files, always the same; made once and kept in the cache."""

import random
import subprocess
import time

MASK = (1 << 64) - 1
DRAW = random.Random(42)
WORDS = ["".join(DRAW.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(DRAW.randint(3, 9))) for _ in range(4000)]
# About 1.2 MB of words: what rows say is cut out of it.
TEXT = " ".join(DRAW.choice(WORDS) for _ in range(180000))
TYPES = (
    "view click add_to_cart remove_from_cart checkout purchase refund login logout search share rate".split()
)
COUNTRIES = "NL DE FR US GB IN BR JP CA AU SE PL".split()
AGENTS = [
    f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
    for version in range(100, 140)
]
START_MS = 1767225600000  # 2026-01-01T00:00:00Z, one row every 20 ms


def mix(x):
    """splitmix64: a row depends on its number only."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def event(i):
    """One event: 13 fields, about 1 KB, half of it text."""
    a = mix(i)
    b = mix(a)
    c = mix(b)
    ms = START_MS + i * 20
    text, path = c % 1190000, (c >> 24) % 1190000
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000))
    return (
        f'{{"event_id":"{a >> 32:08x}-{(a >> 16) & 0xFFFF:04x}-{a & 0xFFFF:04x}-{b:016x}","seq":{i},'
        f'"event_time":"{at}.{ms % 1000:03d}Z","received_ms":{ms + (a & 1023)},"tenant":"tenant-{b % 500:04d}",'
        f'"user_id":{b % 2000003},"event_type":"{TYPES[a % 12]}","country":"{COUNTRIES[(b >> 20) % 12]}",'
        f'"amount":{(c % 10000000) / 100.0:.2f},"quantity":{c % 97},"user_agent":"{AGENTS[a % 40]}",'
        f'"url":"https://shop.example.com/{TEXT[path:path + 60].replace(" ", "/")}'
        f'?ref={TEXT[text + 80:text + 100].replace(" ", "-")}","description":"{TEXT[text:text + 520]}"}}\n'
    )


def events(folder, rows):
    """The file of so many events."""
    path = folder / f"events-{rows}.ndjson"
    if not path.exists():
        part = path.with_suffix(".part")
        with open(part, "w", encoding="ascii", newline="\n") as out:
            out.writelines(map(event, range(rows)))
        part.rename(path)
    return path


def partitioned(folder, rows, groups):
    """Small rows, each group in turn: what keeps `groups` partitions open from the first batch to the last."""
    path = folder / f"groups-{groups}-{rows}.ndjson"
    if not path.exists():
        part = path.with_suffix(".part")
        with open(part, "w", encoding="ascii", newline="\n") as out:
            for i in range(rows):
                text = mix(i) % 1190000
                out.write(f'{{"grp":{i % groups},"seq":{i},"amount":{mix(i) % 99991 / 100},"text":"{TEXT[text:text + 300]}"}}\n')
        part.rename(path)
    return path


def lineitem_parquet(folder, scale, tpchgen):
    """TPC-H's lineitem as one Parquet file."""
    path = folder / f"lineitem-{scale:g}.parquet"
    if not path.exists():
        scratch = folder / f"tpch-{scale:g}"
        make = [tpchgen, "parquet", "-s", f"{scale:g}", "-T", "lineitem", "-o", scratch]
        subprocess.run(make, check=True, capture_output=True)
        (scratch / "lineitem.parquet").rename(path)
        scratch.rmdir()
    return path


def lineitem(folder, scale, tpchgen, python):
    """TPC-H's lineitem, dates as text and decimals as numbers."""
    path = folder / f"lineitem-{scale:g}.ndjson"
    if not path.exists():
        scratch = folder / f"tpch-{scale:g}"
        make = [tpchgen, "parquet", "-s", f"{scale:g}", "-T", "lineitem", "-o", scratch]
        subprocess.run(make, check=True, capture_output=True)
        part = path.with_suffix(".part")
        copy = f"COPY (FROM '{scratch}/lineitem.parquet') TO '{part}' (FORMAT json)"
        subprocess.run([python, "-c", f"import duckdb; duckdb.sql('SET threads=1'); duckdb.sql(\"{copy}\")"], check=True)
        (scratch / "lineitem.parquet").unlink()
        scratch.rmdir()
        part.rename(path)
    return path
