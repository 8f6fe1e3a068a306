"""Flink in one process, with Iceberg's runtime: a program that runs the statements of its standard input."""

import os
import shutil

from component import Failure, Tool

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "flink_fixture")
PACKAGES = ("lang lang.invoke lang.reflect io net nio text time util util.concurrent util.concurrent.atomic").split()


def text(name):
    with open(os.path.join(FIXTURE, name), encoding="utf-8") as file:
        return file.read()


class Component(Tool):
    name = "flink"
    what = "Flink 2.1.1 with Iceberg 1.11.0, which upserts into tables of format version 2 and 3"
    recipe = (text("pom.xml"), text("FlinkSql.java"))

    def fill(self):
        if not shutil.which("javac"):
            raise Failure("flink needs a JDK 17 or newer (Debian: openjdk-17-jdk-headless)")
        lib = self.home / "lib"
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
        self.maven("-f", os.path.join(FIXTURE, "pom.xml"), goal, "-DincludeScope=runtime", f"-DoutputDirectory={lib}")
        self.command("javac", "-nowarn", "-cp", f"{lib}/*", "-d", "classes", os.path.join(FIXTURE, "FlinkSql.java"))

    def environment(self):
        if not self.installed():
            return {}
        opens = " ".join(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES)
        return {"FLINK_CLASSES": f"{self.home}/classes:{self.home}/lib/*", "FLINK_OPENS": opens}
