"""Files of numbered rows that appear in a folder, a few of which are no rows at all."""

import json
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
