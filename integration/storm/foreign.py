"""Spark beside the daemons: it appends rows that are known, compacts, expires, rolls a branch forward and main back."""

import collections
import json
import os
import subprocess
import threading
import time

# Ids of foreign rows begin here; those of the input stay below.
FOREIGN = 1_000_000_000
ROWS = 25
# A rollback is at most so many checkpoints long.
BACK = 6
# Seconds before what could not be done is tried again: the daemons may be away, and nothing there to roll back.
AGAIN = 3


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

    def __init__(self, spark, place, chance, rolls_back=False):
        super().__init__(daemon=True)
        self.spark = spark
        self.place = place
        self.chance = chance
        self.kinds = (*self.KINDS, "rollback", "rollback") if rolls_back else self.KINDS
        self.enough = threading.Event()
        self.rows = 0
        # Rows of commits that were told to have failed: each is there once or not at all.
        self.certain, self.doubtful = set(), set()
        # How many its own rollbacks took.
        self.taken = 0
        self.done, self.failed = collections.Counter(), collections.Counter()
        self.errors = []
        # Whether Spark itself has ended.
        self.gone = False

    def run(self):
        kinds = []
        while not self.enough.is_set():
            if not kinds:
                kinds = list(self.kinds)
                self.chance.shuffle(kinds)
            self.act(kinds.pop())
            self.enough.wait(self.chance.uniform(0.5, 4))
        for kind in sorted(set(self.kinds)):
            for _ in range(self.TRIES):
                if self.done[kind] or self.gone:
                    break
                self.act(kind)
                if not self.done[kind]:
                    time.sleep(AGAIN)

    def act(self, kind):
        ids = set()
        if kind in ("append", "forward"):
            ids = set(range(FOREIGN + self.rows, FOREIGN + self.rows + ROWS))
            self.rows += ROWS
        self.judge(kind, ids, self.spark.ask({**self.place, kind: self.request(kind, ids)}))

    def request(self, kind, ids):
        if kind == "rollback":
            return {"back": self.chance.randint(1, BACK), "where": f"id >= {FOREIGN}"}
        return [{"id": id, "text": f"row-{id}"} for id in sorted(ids)] or True

    def judge(self, kind, ids, answer):
        """What the answer means for its own rows."""
        kept = set(answer["kept"]) if "kept" in answer else None
        if kept is not None:
            self.certain |= self.doubtful & kept
            self.doubtful -= kept
        if "error" in answer:
            self.failed[kind] += 1
            self.gone = "gone" in answer
            self.errors.append(f"{kind}: {answer['error'].splitlines()[0][:300]}")
            self.doubtful |= ids if kept is None else self.certain - kept
            self.certain -= self.doubtful
        elif not answer.get("done", True):
            self.failed[kind] += 1
        else:
            self.done[kind] += 1
            self.certain |= ids
            if kept is not None:
                self.taken += len(self.certain - kept)
                self.certain &= kept
