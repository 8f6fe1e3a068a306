"""Spark, and a catalog over files that Spark and we both reach: Apache Iceberg's own REST catalog."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import component
import process

CALLS = pathlib.Path(__file__).resolve().parent / "spark_calls.py"


class Lake:
    """The catalog, and a Spark session in it, until they are closed."""

    def __init__(self, place):
        self.run = component.Run(component.Run.from_environment().cache, place.folder / "lake")
        self.catalog = component.load("apache-rest", self.run)
        spark = component.load("spark", self.run)
        spark.start()
        self.catalog.start()
        self.uri = self.catalog.environment()["APACHE_REST_URI"]
        self.warehouse = pathlib.Path(self.catalog.environment()["APACHE_REST_LOCATION"].removeprefix("file://"))
        variables = spark.environment()
        scratch = place.folder / "spark"
        scratch.mkdir()
        self.log = open(place.folder / "spark.log", "wb")
        self.child = subprocess.Popen(
            [variables["SPARK_PYTHON"], "-B", CALLS, self.uri, scratch, str(place.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "SPARK_JARS": variables["SPARK_JARS"]},
        )
        self.call("POST", "/v1/namespaces", {"namespace": ["bench"]})

    def close(self):
        self.child.stdin.close()
        self.child.wait(60)
        self.log.close()
        self.catalog.stop()

    def call(self, method, path, body=None):
        """A request to the catalog."""
        body = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.uri + path, body, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"{}")

    def register(self, name, metadata):
        """Makes known a table whose files are there."""
        self.call("POST", "/v1/namespaces/bench/register", {"name": name, "metadata-location": metadata})

    def location(self, name):
        """Where the newest metadata document of a table is."""
        return self.call("GET", f"/v1/namespaces/bench/tables/{name}")["metadata-location"]

    def spark(self, **request):
        """Has Spark do something; what it answers."""
        print(json.dumps(request), file=self.child.stdin, flush=True)
        line = self.child.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise process.Failure(f"Spark: {answer['error']}")
        return answer


@contextlib.contextmanager
def lake(place):
    print("bench: starts Spark and a REST catalog", file=sys.stderr, flush=True)
    opened = Lake(place)
    try:
        yield opened
    finally:
        opened.close()
