"""Spark beside the daemons: it appends rows that are known, compacts, expires and rolls a branch forward."""

import collections
import json
import os
import subprocess
import threading

# Ids of foreign rows begin here; those of the input stay below.
FOREIGN = 1_000_000_000
ROWS = 25


class Engine:
    """A reader of integration/readers that answers JSON with JSON."""

    def __init__(self, python, script, log, variables=None):
        with open(log, "a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [str(python), "-B", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **(variables or {})},
                # It brings children of its own; they end with it.
                start_new_session=True,
            )
        self.log = log

    def ask(self, request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        return json.loads(line) if line else {"error": f"the engine is gone; see {self.log}", "gone": True}

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()


class Foreign(threading.Thread):
    """Goes on until told to stop, then once more through what it has not managed yet."""

    KINDS = ("append", "append", "append", "compact", "expire", "forward")
    TRIES = 12

    def __init__(self, spark, place, chance):
        super().__init__(daemon=True)
        self.spark = spark
        self.place = place
        self.chance = chance
        self.enough = threading.Event()
        self.rows = 0
        # Rows of commits that were told to have failed: each is there once or not at all.
        self.certain, self.doubtful = set(), set()
        self.done, self.failed = collections.Counter(), collections.Counter()
        self.errors = []
        # Whether Spark itself has ended.
        self.gone = False

    def run(self):
        kinds = []
        while not self.enough.is_set():
            if not kinds:
                kinds = list(self.KINDS)
                self.chance.shuffle(kinds)
            self.act(kinds.pop())
            self.enough.wait(self.chance.uniform(0.5, 4))
        for kind in sorted(set(self.KINDS)):
            for _ in range(self.TRIES):
                if self.done[kind] or self.gone:
                    break
                self.act(kind)

    def act(self, kind):
        request = {**self.place, kind: True}
        ids = set()
        if kind in ("append", "forward"):
            ids = set(range(FOREIGN + self.rows, FOREIGN + self.rows + ROWS))
            self.rows += ROWS
            request[kind] = [{"id": id, "text": f"row-{id}"} for id in sorted(ids)]
        answer = self.spark.ask(request)
        if "error" in answer:
            self.failed[kind] += 1
            self.gone = "gone" in answer
            self.errors.append(f"{kind}: {answer['error'].splitlines()[0][:300]}")
            self.doubtful |= ids
        elif not answer.get("forwarded", True):
            self.failed[kind] += 1
        else:
            self.done[kind] += 1
            self.certain |= ids
