"""Child processes and what they cost, as the system itself counts it."""

import contextlib
import os
import subprocess
import threading
import time


class Cost:
    """CPU-seconds (user and system), the largest resident set in MiB, seconds on the wall."""

    def __init__(self, usage, wall):
        self.cpu = usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss / 1024
        self.wall = wall


class Failure(Exception):
    """A program that did not do what is measured."""


def measure(words, log, environment=None):
    """Runs a program to its end."""
    with open(log, "wb") as out:
        began = time.monotonic()
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        with open(log, encoding="utf-8", errors="replace") as text:
            raise Failure(f"{words[0]} ended with {child.returncode}:\n{text.read()[-3000:]}")
    return Cost(usage, time.monotonic() - began)


@contextlib.contextmanager
def running(words, log):
    """A program that runs until the block ends; then it is asked to stop."""
    with open(log, "wb") as out:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        # One that does not stop must not hold up the rest.
        guard = threading.Timer(120, child.kill)
        guard.start()
        try:
            yield child
        finally:
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
