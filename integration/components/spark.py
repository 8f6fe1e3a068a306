"""Spark, with Iceberg's runtime and its AWS bundle: jar and Spark must agree on the minor version."""

from component import Tool

ICEBERG = "1.12.0"
JARS = ("iceberg-spark-runtime-3.5_2.12", "iceberg-aws-bundle")


class Component(Tool):
    name = "spark"
    what = f"Spark 3.5.9 with Iceberg {ICEBERG}"
    recipe = ("pyspark==3.5.9", ICEBERG, JARS)

    def fill(self):
        self.pip("pyspark==3.5.9")
        for jar in JARS:
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
            self.maven(goal, f"-Dartifact=org.apache.iceberg:{jar}:{ICEBERG}", f"-DoutputDirectory={self.home / 'jars'}")

    def environment(self):
        if not self.installed():
            return {}
        jars = ":".join(str(self.home / "jars" / f"{jar}-{ICEBERG}.jar") for jar in JARS)
        return {"SPARK_PYTHON": str(self.python()), "SPARK_JARS": jars}
