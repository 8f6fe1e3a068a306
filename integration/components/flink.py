"""Flink in one process, with Iceberg's runtime: a program that runs the statements of its standard input."""

from component import Tool, text

FIXTURE = "flink_fixture"
PACKAGES = ("lang lang.invoke lang.reflect io net nio text time util util.concurrent util.concurrent.atomic").split()


class Component(Tool):
    name = "flink"
    what = "Flink 2.1.1 with Iceberg 1.11.0, which upserts into tables of format version 2 and 3"
    recipe = (text(FIXTURE, "pom.xml"), text(FIXTURE, "FlinkSql.java"))

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "lib")
        self.classes(self.here / FIXTURE / "FlinkSql.java")

    def environment(self):
        if not self.installed():
            return {}
        opens = " ".join(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES)
        return {"FLINK_CLASSES": f"{self.home}/classes:{self.home}/lib/*", "FLINK_OPENS": opens}
