"""The digest of a table as Spark reads it, and rows that Spark appends: one session for a whole suite.

A request with `append` (a list of rows as objects) writes them and answers `{"rows": n}`; see spark_append.py. One with
one of `DEEDS` does that to the table; see spark_maintain.py.
Needs SPARK_JARS (scripts/components start spark prints it).
"""

import os
import tempfile
import time

# Before anything of Spark's looks at them: one time zone everywhere, nothing but loopback.
os.environ["TZ"] = "UTC"
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
time.tzset()

from pyspark.sql import SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

from digest import Digest  # noqa: E402
from serve import serve, write  # noqa: E402
from spark_append import append  # noqa: E402
from spark_maintain import DEEDS, maintain  # noqa: E402


def session(scratch):
    builder = SparkSession.builder.master("local[2]").appName("frazil-integration")
    settings = {
        "spark.driver.extraClassPath": os.environ["SPARK_JARS"],
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC",
        "spark.local.dir": scratch,
        "spark.sql.warehouse.dir": scratch,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


class Engine:
    """One session, and the catalogs that requests have named so far."""

    def __init__(self, spark):
        self.spark = spark
        self.catalogs = {}

    def name(self, request):
        """The table's name in this session; its catalog is made known at the first request for it."""
        catalog, s3 = request["catalog"], request.get("s3")
        key = str((sorted(catalog.items()), sorted((s3 or {}).items())))
        if key not in self.catalogs:
            self.catalogs[key] = f"it{len(self.catalogs)}"
            prefix = f"spark.sql.catalog.{self.catalogs[key]}"
            settings = {"": "org.apache.iceberg.spark.SparkCatalog", ".type": "rest", ".cache-enabled": "false"}
            settings |= {f".{name}": value for name, value in catalog.items()}
            if s3:
                settings |= {
                    ".io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                    ".s3.endpoint": s3["endpoint"],
                    ".s3.path-style-access": "true",
                    ".s3.access-key-id": s3["access_key_id"],
                    ".s3.secret-access-key": s3["secret_access_key"],
                    ".client.region": s3["region"],
                }
            for name, value in settings.items():
                self.spark.conf.set(prefix + name, value)
        return f"{self.catalogs[key]}.{request['table']}"

    def rows(self, request):
        """The rows of a catalog's table, as it is or as a snapshot has it."""
        reader = self.spark.read
        if "snapshot" in request:
            reader = reader.option("snapshot-id", request["snapshot"])
        return reader.table(self.name(request))

    def answer(self, request):
        if "append" in request:
            return append(self.spark, self.name(request), request["append"])
        if any(deed in request for deed in DEEDS):
            return maintain(self.spark, self.name(request), request)
        if "metadata" in request:
            rows = self.spark.read.format("iceberg").load(request["metadata"])
        else:
            rows = self.rows(request)
        if "into" in request:
            return write(rows.select(request["select"]).toLocalIterator(), request["into"])
        digest = Digest(request["columns"])
        for row in rows.select([expression(*column) for column in request["columns"].items()]).toLocalIterator():
            digest.add(row)
        return digest.answer()


def expression(name, kind):
    """Numbers instead of times, so that no time zone of Python's can come between."""
    column = F.col(f"`{name}`")
    if kind == "timestamp":
        return F.unix_micros(column.cast("timestamp"))
    if kind == "timestamptz":
        return F.unix_micros(column)
    return F.unix_date(column) if kind == "date" else column


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        spark = session(folder)
        serve(Engine(spark).answer)
        spark.stop()
