"""Child processes and what they cost, as the system itself counts it."""

import contextlib
import json
import subprocess
import sys
import threading


# A process that starts another counts as that one's memory until it begins: so a small one starts it, not a benchmark that
# holds what it has generated.
LAUNCH = """
import os, sys, time
began = time.monotonic()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
wall = time.monotonic() - began
with open(sys.argv[1], "w", encoding="ascii") as out:
    print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, wall, file=out)
"""


# The generated web shop into one table of the embedded catalog, as fast as it goes.
SHOP = """
state_dir = "{folder}/state"
limits = {{ workers = {threads} }}

[catalog.local]
type = "embedded"
path = "{folder}/catalog.db"
warehouse = "{folder}/warehouse"

[source.shop]
type = "replay"

[pipeline.shop]
source = "shop"
table = "local.bench.shop"
commit = {{ freshness = "{freshness}s" }}
"""


class Cost:
    """CPU-seconds (user and system), the largest resident set in MiB, seconds on the wall."""

    def __init__(self, cpu, peak, wall):
        self.cpu, self.peak, self.wall = cpu, peak, wall


class Failure(Exception):
    """A program that did not do what is measured."""


def measure(words, log, environment=None):
    """Runs a program to its end."""
    report = f"{log}.cost"
    launch = [sys.executable, "-I", "-S", "-c", LAUNCH, report, *map(str, words)]
    with open(log, "wb") as out:
        subprocess.run(launch, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=True)
    with open(report, encoding="ascii") as line:
        code, *cost = map(float, line.read().split())
    if code != 0:
        with open(log, encoding="utf-8", errors="replace") as text:
            raise Failure(f"{words[0]} ended with {code:.0f}:\n{text.read()[-3000:]}")
    return Cost(*cost)


@contextlib.contextmanager
def running(words, log):
    """A program that runs until the block ends; then it is asked to stop."""
    with open(log, "wb") as out:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        # One that does not stop must not hold up the rest.
        guard = threading.Timer(120, child.kill)
        try:
            yield child
        finally:
            guard.start()
            child.terminate()
            child.wait()
            guard.cancel()


def resident(pid):
    """MiB of memory that a process has now, and had at most."""
    sizes = {}
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                sizes[key] = int(value.split()[0]) / 1024
    return sizes["VmRSS"], sizes["VmHWM"]


def commits(log):
    """What a daemon's log says of its commits so far."""
    with open(log, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if '"message":"committed"' in line and line.endswith("\n")]


def ages(told):
    """Seconds from the oldest record of each commit, by its own timestamp, to the commit's end."""
    # One that has only what was passed over has no such record.
    found = [one["oldest_record_ms"] / 1000 for one in told if "oldest_record_ms" in one]
    if not found:
        raise Failure(f"of {len(told)} commits none says how old its oldest record is")
    return found


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
