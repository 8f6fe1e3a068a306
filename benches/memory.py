"""What the daemon holds: idle, with 500 partitions or 1,000 tables open, and how soon the demo's first commit is there."""

import shutil
import time

import inputs
import process

# A folder of files into tables beside it.
ROWS = """
state_dir = "{folder}/state"
[catalog.local]
type = "embedded"
path = "{folder}/catalog.db"
warehouse = "{folder}/warehouse"
[source.rows]
type = "files"
path = "{folder}/in"
"""

IDLE = ROWS + """
[pipeline.rows]
source = "rows"
table = "local.bench.rows"
"""

PARTITIONS = """
limits = {{ memory = "{budget}MiB", workers = {threads} }}
""" + ROWS + """until_end = true
[pipeline.rows]
source = "rows"
table = "local.bench.rows"
create = {{ partition = ["grp"] }}
commit = {{ freshness = "1h" }}
"""

TABLES = """
limits = {{ tables = 1100, workers = {threads} }}
""" + ROWS + """until_end = true
[pipeline.rows]
source = "rows"
table = "local.bench.t{{grp}}"
anchor = "local.bench.epochs"
commit = {{ freshness = "1h" }}
"""

IDLE_TARGET = 60
GROUPS = 500
GROUP_ROWS = 1_000_000
BUDGETS = (256, 512)
FIRST_TARGET = 3.0
MANY = 1000
MANY_ROWS = 500_000
MANY_TARGET = 1536


def folder(place, name, text, source=None, **values):
    """A fresh folder with a configuration and, where there is one, the input."""
    here = place.folder / name
    shutil.rmtree(here, ignore_errors=True)
    (here / "in").mkdir(parents=True)
    if source:
        (here / "in" / source.name).hardlink_to(source)
    (here / "frazil.toml").write_text(text.format(folder=here, threads=place.threads, **values), encoding="utf-8")
    return here


def idle(place):
    here = folder(place, "idle", IDLE)
    with process.running([place.frazil, "run", "-c", here / "frazil.toml"], here / "log") as child:
        time.sleep(10)
        now, most = process.resident(child.pid)
    verdict = "holds" if most <= IDLE_TARGET else "MISSED"
    return [f"idle: {now:.1f} MiB now, {most:.1f} MiB at most, target {IDLE_TARGET}: {verdict}"]


def partitions(place, budget):
    source = inputs.partitioned(place.inputs, GROUP_ROWS, GROUPS)
    here = folder(place, "partitions", PARTITIONS, source, budget=budget)
    cost = process.measure([place.frazil, "run", "-c", here / "frazil.toml"], here / "log")
    files = sum(1 for _ in (here / "warehouse").rglob("*.parquet"))
    return [
        f"{GROUPS} partitions, limits.memory {budget} MiB: peak {cost.peak:.0f} MiB ({cost.peak / budget:.2f} of it), "
        f"{files} files, {cost.cpu:.1f} CPU-s"
    ]


def tables(place):
    source = inputs.partitioned(place.inputs, MANY_ROWS, MANY)
    here = folder(place, "tables", TABLES, source)
    cost = process.measure([place.frazil, "run", "-c", here / "frazil.toml"], here / "log")
    made = sum(1 for one in (here / "warehouse" / "bench").iterdir() if any(one.glob("data/**/*.parquet")))
    verdict = "holds" if cost.peak <= MANY_TARGET and made == MANY else "MISSED"
    return [f"{made} tables, default limits: peak {cost.peak:.0f} MiB, target {MANY_TARGET}, {cost.cpu:.1f} CPU-s: {verdict}"]


def first_commit(place):
    """From the start of the process until its first snapshot with rows is there."""
    here = place.folder / "demo"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    began = time.monotonic()
    words = [place.frazil, "demo", "--dir", here / "out", "--seconds", "8", "--rate", "5000"]
    with process.running(words, here / "log"):
        while time.monotonic() - began < 30:
            # A committed epoch's files are named by a manifest; the start record's commit has none.
            if any((here / "out" / "warehouse").glob("demo/shop_*/data/**/*.parquet")) and committed(here):
                break
            time.sleep(0.01)
        took = time.monotonic() - began
    verdict = "holds" if took <= FIRST_TARGET else "MISSED"
    return [f"first commit of the demo: {took:.2f} s after start, target {FIRST_TARGET:.0f}: {verdict}"]


def committed(here):
    """Whether the second document of a table is there whose snapshot added rows."""
    for document in (here / "out" / "warehouse").glob("demo/shop_*/metadata/*.metadata.json"):
        if '"added-records"' in document.read_text(encoding="utf-8", errors="replace"):
            return True
    return False


def run(place, _sizes):
    yield idle(place)
    for budget in BUDGETS:
        yield partitions(place, budget)
    yield tables(place)
    yield first_commit(place)
