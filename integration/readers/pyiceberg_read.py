"""The digest of a table as PyIceberg reads it."""

from pyiceberg.catalog import load_catalog
from pyiceberg.table import StaticTable

from digest import Digest
from serve import serve


def s3_properties(s3):
    if not s3:
        return {}
    return {
        "s3.endpoint": s3["endpoint"],
        "s3.access-key-id": s3["access_key_id"],
        "s3.secret-access-key": s3["secret_access_key"],
        "s3.region": s3["region"],
    }


def table(request):
    properties = s3_properties(request.get("s3"))
    if "metadata" in request:
        return StaticTable.from_metadata(request["metadata"], properties)
    # A catalog's own word on how to read files is for other languages.
    properties["py-io-impl"] = "pyiceberg.io.pyarrow.PyArrowFileIO"
    return load_catalog("it", type="rest", **request["catalog"], **properties).load_table(request["table"])


def answer(request):
    names = list(request["columns"])
    digest = Digest(request["columns"])
    scan = table(request).scan(selected_fields=tuple(names), snapshot_id=request.get("snapshot"))
    for batch in scan.to_arrow_batch_reader():
        for row in zip(*(batch.column(name).to_pylist() for name in names)):
            digest.add(row)
    return digest.answer()


if __name__ == "__main__":
    serve(answer)
