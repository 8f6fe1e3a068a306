"""The digest of NDJSON input: what every engine must find in the table. `paths` in the request takes the table's place."""

import gzip
import json

from digest import Digest
from serve import serve


def answer(request):
    digest = Digest(request["columns"])
    names = list(request["columns"])
    for path in request["paths"]:
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                digest.add([row.get(name) for name in names])
    return digest.answer()


if __name__ == "__main__":
    serve(answer)
