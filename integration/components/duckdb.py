"""DuckDB in Python, with the signed extensions from the package registry, so that it never asks the network for one."""

from component import Tool


class Component(Tool):
    name = "duckdb"
    what = "DuckDB 1.5.5 with its Iceberg extension"
    # All of one version: an extension loads into exactly its own.
    recipe = (
        "duckdb==1.5.5",
        *(f"duckdb-extension-{name}==1.5.5" for name in ("parquet", "avro", "httpfs", "iceberg")),
        "pyarrow==21.0.0",
    )

    def fill(self):
        self.pip(*self.recipe)

    def environment(self):
        return {"DUCKDB_PYTHON": str(self.python())} if self.installed() else {}
