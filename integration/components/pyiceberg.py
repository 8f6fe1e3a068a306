"""PyIceberg, in an environment of its own: beside other S3 clients pip picks an older one."""

from component import Tool


class Component(Tool):
    name = "pyiceberg"
    what = "PyIceberg 0.12.0"
    recipe = ("pyiceberg[sql-sqlite,pyarrow,pyiceberg-core]==0.12.0",)

    def fill(self):
        self.pip(*self.recipe)

    def environment(self):
        return {"PYICEBERG_PYTHON": str(self.python())} if self.installed() else {}
