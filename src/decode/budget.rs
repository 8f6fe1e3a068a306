//! How much one row may fill.

use crate::decode::fault::Fault;

/// Values that a row's lists and maps may fill. Two bytes may be an element that fills all columns below it.
const VALUES_MAX: usize = 1 << 24;

/// Counts the values that a row's lists and maps fill: an element fills its own and those of all columns below it.
pub(crate) struct Budget {
    /// Values that they may fill; as many as the row has bytes they always may.
    pub(crate) most: usize,
    /// What is left of them for the row.
    left: usize,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { most: VALUES_MAX, left: VALUES_MAX }
    }

    /// Begins a row of so many bytes.
    #[inline]
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.left = self.most.max(bytes);
    }

    /// Takes `count` of the values that the row may fill.
    #[inline]
    pub(crate) fn fills(&mut self, count: usize) -> Result<(), Fault> {
        match self.left.checked_sub(count) {
            Some(left) => self.left = left,
            None => return Err(self.too_many()),
        }
        Ok(())
    }

    #[cold]
    fn too_many(&self) -> Fault {
        let most = self.most;
        Fault::value(format!("the row's lists and maps fill more than {most} values: send fewer elements in one row"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType, StructType, Type};
    use serde_json::{Value, json};

    use crate::config::OnChange;
    use crate::decode::append::Appender;
    use crate::decode::avro_cursor::Cursor;
    use crate::decode::avro_fill::Filler;
    use crate::decode::avro_fit::{Terms, fit};
    use crate::decode::avro_schema::{Record, WriterSchema};
    use crate::decode::columns::Columns;
    use crate::decode::connect_fill::JsonFiller;
    use crate::decode::connect_schema;
    use crate::decode::fault::Fault;
    use crate::decode::plan::StructPlan;
    use crate::decode::scan::Scanner;
    use crate::decode::temporal::Epoch;

    /// A list `l` and a map `m` of structs of nine columns: an element fills ten values, an entry eleven.
    fn plan() -> StructPlan {
        let structs = |first: i32| {
            let fields =
                (0..9).map(|n| NestedField::optional(first + n, format!("c{n}"), Type::Primitive(PrimitiveType::Int)));
            Type::Struct(StructType::new(fields.map(Arc::new).collect()))
        };
        let list = Type::List(ListType::new(Arc::new(NestedField::list_element(20, structs(1), false))));
        let key = NestedField::map_key_element(21, Type::Primitive(PrimitiveType::String));
        let map =
            Type::Map(MapType::new(Arc::new(key), Arc::new(NestedField::map_value_element(22, structs(10), false))));
        let fields = [NestedField::optional(23, "l", list), NestedField::optional(24, "m", map)].map(Arc::new);
        StructPlan::of_row(&fields, BTreeSet::new()).expect("valid")
    }

    /// Room is made for all bytes of a fixed one, also where it is NULL.
    #[test]
    fn a_wide_fixed_value_counts_for_sixteen_bytes_each() {
        let fixed =
            |id, width| NestedField::optional(id, format!("c{id}"), Type::Primitive(PrimitiveType::Fixed(width)));
        let inner = StructType::new([fixed(1, 15), fixed(2, 160)].map(Arc::new).to_vec());
        let list = ListType::new(Arc::new(NestedField::list_element(3, Type::Struct(inner), false)));
        let field = NestedField::optional(4, "l", Type::List(list));
        let plan = StructPlan::of_row(&[Arc::new(field)], BTreeSet::new()).expect("valid");
        let row = |most| {
            let mut appender = Appender::new(OnChange::Freeze, Epoch::Millis);
            appender.budget.most = most;
            appender.row(&plan, &mut Columns::new(&plan, 1), r#"{"l":[{}]}"#).is_ok()
        };
        assert_eq!((row(13), row(12)), (true, false));
    }

    const LISTED: &str = r#"{"l":[{},{},{},{},{},{},{},{},{},{}]}"#;
    const MAPPED: &str = r#"{"m":{"a":{},"b":{},"c":{},"d":{},"e":{},"f":{},"g":{},"h":{},"i":{},"j":{}}}"#;

    /// Rows of ten elements and of ten entries fit just so, and not into one value less.
    fn fits_just_so(row: impl Fn(usize, bool) -> Result<(), Fault>) {
        let told = |most, listed| row(most, listed).map_err(|fault| format!("{}: {}", fault.path, fault.reason));
        let refused = |path: &str, most: usize| {
            Err(format!(
                "{path}: the row's lists and maps fill more than {most} values: send fewer elements in one row"
            ))
        };
        assert_eq!((told(100, true), told(99, true)), (Ok(()), refused("l", 99)));
        assert_eq!((told(110, false), told(109, false)), (Ok(()), refused("m", 109)));
    }

    fn fitted(record: Record, plan: &StructPlan, json: bool) -> crate::decode::avro_fit::Fitted {
        fit(&Arc::new(record), plan, Terms { epoch: Epoch::Millis, nanos: false, json })
    }

    #[test]
    fn a_row_of_json_fills_as_many_values_as_one_may() {
        let plan = plan();
        fits_just_so(|most, listed| {
            let mut appender = Appender::new(OnChange::Freeze, Epoch::Millis);
            appender.budget.most = most;
            appender.row(&plan, &mut Columns::new(&plan, 1), if listed { LISTED } else { MAPPED })
        });
    }

    #[test]
    fn a_row_of_connects_fills_as_many_values_as_one_may() {
        let (plan, empty) = (plan(), json!({ "type": "struct", "fields": [] }));
        let list = json!({ "field": "l", "type": "array", "optional": true, "items": empty });
        let map =
            json!({ "field": "m", "type": "map", "optional": true, "keys": { "type": "string" }, "values": empty });
        let schema: Value = json!({ "type": "struct", "fields": [list, map] });
        let fitted = fitted(connect_schema::record(&schema).expect("valid"), &plan, true);
        fits_just_so(|most, listed| {
            let (mut filler, text) = (JsonFiller::new(OnChange::Freeze), if listed { LISTED } else { MAPPED });
            filler.tally.budget.most = most;
            filler.tally.begin(text.len());
            filler.record(&fitted.root, &plan, &mut Columns::new(&plan, 1), 0, &mut Scanner::new(text))
        });
    }

    #[test]
    fn a_row_of_avro_fills_as_many_values_as_one_may() {
        let plan = plan();
        let schema = r#"{"type":"record","name":"R","fields":[
            {"name":"l","type":{"type":"array","items":{"type":"record","name":"E","fields":[{"name":"c0","type":["null","int"]}]}}},
            {"name":"m","type":{"type":"map","values":"E"}}]}"#;
        let writer = WriterSchema::parse(schema, &[""; 0]).expect("valid");
        let fitted = fitted(Record::new(writer.root.fields.clone()), &plan, false);
        let listed_row = [&[20][..], &[0; 10], &[0, 0]].concat();
        let entries: Vec<u8> = (b'a'..=b'j').flat_map(|key| [2, key, 0]).collect();
        let mapped_row = [&[0, 20][..], &entries, &[0]].concat();
        fits_just_so(|most, listed| {
            let (mut filler, row) = (Filler::new(OnChange::Freeze), if listed { &listed_row } else { &mapped_row });
            filler.tally.budget.most = most;
            filler.tally.begin(row.len());
            filler.record(&fitted.root, &plan, &mut Columns::new(&plan, 1), &mut Cursor::new(row))
        });
    }
}
