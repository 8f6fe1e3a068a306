"""Rows that Spark appends to a table: the foreign writer beside ours."""


def append(spark, table, rows):
    """Appends `rows` (objects; missing fields are NULL) in one commit, in the types that the table has now."""
    schema = spark.table(table).schema
    values = [tuple(row.get(field.name) for field in schema.fields) for row in rows]
    # Texts first, then the table's own types: JSON has neither dates nor timestamps.
    text = spark.createDataFrame(
        [tuple(None if value is None else str(value) for value in row) for row in values],
        ", ".join(f"`{field.name}` string" for field in schema.fields),
    )
    typed = text.select([text[f"`{field.name}`"].cast(field.dataType).alias(field.name) for field in schema.fields])
    typed.coalesce(1).writeTo(table).append()
    return {"rows": len(rows)}
