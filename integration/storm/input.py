"""Numbered rows, a few of which are none: in files that appear in a folder, or in a topic."""

import json
import pathlib
import subprocess
import threading

ROWS = 60
# One line of so many is bad; its number is in it, so that it can be found among the rejects.
BAD = 97
PAUSE = 0.25


class Input(threading.Thread):
    """Writes a file every quarter of a second until told to stop."""

    def __init__(self, folder, apart):
        super().__init__(daemon=True)
        self.folder = folder
        # Files are made here and moved: one that is there is whole.
        self.apart = apart
        self.enough = threading.Event()
        self.files = 0
        self.rows, self.bad = set(), set()

    def run(self):
        self.file()
        while not self.enough.wait(PAUSE):
            self.file()

    def file(self):
        first = self.files * ROWS
        lines = []
        for id in range(first, first + ROWS):
            if id % BAD == BAD - 1:
                self.bad.add(id)
                lines.append(json.dumps({"id": f"bad-{id}"}))
            else:
                self.rows.add(id)
                lines.append(json.dumps({"id": id, "text": f"row-{id}"}))
        part = self.apart / "part"
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        part.rename(self.folder / f"{self.files:08}.ndjson")
        self.files += 1


class Topic(threading.Thread):
    """The same in a topic, by producers of another process."""

    def __init__(self, python, brokers, name, replicas, log, partitions=6):
        super().__init__(daemon=True)
        self.enough = threading.Event()
        self.rows, self.bad, self.ends = set(), set(), {}
        self.name, self.log = name, log
        script = pathlib.Path(__file__).resolve().parent / "produce.py"
        words = [python, "-B", script, brokers, name, partitions, replicas, ROWS, BAD, PAUSE]
        with open(log, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
            )

    def run(self):
        stopper = threading.Thread(target=self.stop, daemon=True)
        stopper.start()
        for line in self.process.stdout:
            told = json.loads(line)
            self.rows.update(told["rows"])
            self.bad.update(told["bad"])
            self.ends = told["ends"]
        self.process.wait()

    def lives(self):
        """Whether the producers have not ended by themselves: what they sent last may be there or not, and nothing is to judge by."""
        return not self.process.poll()

    def stop(self):
        self.enough.wait()
        self.process.stdin.close()

    def reached(self, positions):
        """Whether these positions, of a checkpoint, are those of the last rows."""
        return all(positions.get(f"{self.name}/{number}", -1) >= end for number, end in self.ends.items())
