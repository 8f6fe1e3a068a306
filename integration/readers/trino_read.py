"""The digest of a table as Trino reads it: TRINO_URI names the server, whose catalog `lake` is the one of the request."""

import base64
import json
import os
import urllib.request

from digest import Digest
from serve import serve, write


def pages(statement):
    """The rows of a statement, page by page; bytes come as text in base64."""
    question = urllib.request.Request(
        os.environ["TRINO_URI"] + "/v1/statement", data=statement.encode(), headers={"X-Trino-User": "integration"}
    )
    while question:
        with urllib.request.urlopen(question, timeout=300) as answer:
            page = json.load(answer)
        if "error" in page:
            raise RuntimeError(page["error"]["message"])
        binary = [number for number, column in enumerate(page.get("columns", [])) if column["type"] == "varbinary"]
        rows = page.get("data", [])
        for row in rows if binary else []:
            for number in binary:
                row[number] = row[number] and base64.b64decode(row[number])
        yield rows
        question = page.get("nextUri")


def answer(request):
    table = "lake." + ".".join(f'"{part}"' for part in request["table"].split("."))
    if "into" in request:
        names = ", ".join(f'"{name}"' for name in request["select"])
        return write((row for rows in pages(f"SELECT {names} FROM {table}") for row in rows), request["into"])
    digest = Digest(request["columns"])
    names = ", ".join(expression(name, kind) for name, kind in request["columns"].items())
    version = f" FOR VERSION AS OF {request['snapshot']}" if "snapshot" in request else ""
    for rows in pages(f"SELECT {names} FROM {table}{version}"):
        for row in rows:
            digest.add(row)
    return digest.answer()


def expression(name, kind):
    """Microseconds, so that no time zone of Python's can come between."""
    if kind.startswith("timestamp"):
        return f'CAST(round(to_unixtime("{name}") * 1000000) AS bigint)'
    return f'"{name}"'


if __name__ == "__main__":
    serve(answer)
