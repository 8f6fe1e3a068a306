"""One JSON request a line on standard input, one JSON answer a line on standard output, until the input ends.

A request names `columns` (name → kind) and where the table is: `metadata` (the path of a metadata file), or `table`
(`namespace.name`) with `catalog` (`{"uri": …, "warehouse": …}`) and `s3` (`{"endpoint", "access_key_id", "secret_access_key",
"region"}`), there as the snapshot of id `snapshot` has it where one is named. The answer is the digest, or `{"error": …}`. DuckDB,
Spark and Trino write the rows themselves to a file where it names `into` and the columns to `select`, one JSON list a line.
"""

import json
import os
import sys
import traceback


def serve(answer):
    """Answers are the only thing on standard output: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            result = answer(json.loads(line))
        except Exception as error:  # every failure is an answer, or the asker would wait for ever
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
        out.write(json.dumps(result) + "\n")
        out.flush()


def write(rows, path):
    """Integers, texts and bytes that are text."""
    number = 0
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(rows, 1):
            values = [bytes(one).decode() if isinstance(one, (bytes, bytearray)) else one for one in row]
            file.write(json.dumps(values) + "\n")
    return {"rows": number}
