"""Rows of TPC-H, made by the generator's port to Rust: the same bytes everywhere."""

from component import Tool


class Component(Tool):
    name = "tpchgen"
    what = "the TPC-H generator, for benchmarks"
    recipe = ("tpchgen-cli==4.0.0",)

    def fill(self):
        self.pip(*self.recipe)

    def environment(self):
        return {"TPCHGEN": str(self.home / "venv" / "bin" / "tpchgen-cli")} if self.installed() else {}
