"""What benchmarks ask of Spark: one JSON request a line on standard input, one JSON answer a line on standard output.

`sql`: a statement, with its rows as texts, its seconds on the wall and the CPU-seconds of the Java process meanwhile. `load`: a
Parquet file, whose rows become a new table `table` of so many `files`. Needs SPARK_JARS.
"""

import json
import os
import sys
import time

os.environ["TZ"] = "UTC"
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
time.tzset()

from pyspark.sql import SparkSession  # noqa: E402

SETTINGS = {
    "spark.driver.extraClassPath": os.environ["SPARK_JARS"],
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "4g",
    "spark.driver.extraJavaOptions": "-Duser.timezone=UTC",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
    "spark.sql.catalog.lake.type": "rest",
    "spark.sql.catalog.lake.cache-enabled": "false",
}
TICKS = os.sysconf("SC_CLK_TCK")


class Session:
    """A session in one catalog."""

    def __init__(self, uri, scratch, threads):
        builder = SparkSession.builder.master(f"local[{threads}]").appName("frazil-bench")
        # A shuffle of as many parts as cores: the default of 200 would only slow down a small machine.
        own = {"spark.sql.catalog.lake.uri": uri, "spark.local.dir": scratch, "spark.sql.warehouse.dir": scratch}
        for name, value in {**SETTINGS, **own, "spark.sql.shuffle.partitions": threads}.items():
            builder = builder.config(name, value)
        self.spark = builder.getOrCreate()
        self.spark.sparkContext.setLogLevel("ERROR")
        self.java = self.spark._jvm.java.lang.ProcessHandle.current().pid()

    def cpu(self):
        """CPU-seconds of the Java process so far, user and system."""
        with open(f"/proc/{self.java}/stat", encoding="ascii") as line:
            words = line.read().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def answer(self, request):
        if "load" in request:
            rows = self.spark.read.parquet(request["load"]).repartition(request["files"])
            writer = rows.writeTo(request["table"]).using("iceberg")
            writer.tableProperty("write.distribution-mode", "none").create()
            return {}
        began, before = time.monotonic(), self.cpu()
        rows = self.spark.sql(request["sql"]).collect()
        wall, cpu = time.monotonic() - began, self.cpu() - before
        return {"rows": [[str(value) for value in row] for row in rows], "wall": wall, "cpu": cpu}


def main():
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session(*sys.argv[1:])
    for line in sys.stdin:
        try:
            answer = session.answer(json.loads(line))
        except Exception as error:  # every failure is an answer, or the asker would wait for ever
            answer = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    session.spark.stop()


if __name__ == "__main__":
    main()
