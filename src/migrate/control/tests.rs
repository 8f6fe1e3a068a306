//! Histories of a control topic, with events as the sink encodes them.

use super::*;

/// An event's schema, with as much of it as Iceberg's Java library writes that matters here.
fn schema(payload: &str) -> String {
    format!(
        r#"{{"type":"record","name":"org.apache.iceberg.connect.events.Event","fields":[
        {{"name":"id","type":{{"type":"fixed","name":"uuid_fixed","size":16,"logicalType":"uuid"}},"field-id":10500}},
        {{"name":"type","type":"int","field-id":10501}},
        {{"name":"timestamp","type":{{"type":"long","logicalType":"timestamp-micros","adjust-to-utc":true}},"field-id":10502}},
        {{"name":"group_id","type":"string","field-id":10503}},
        {{"name":"payload","type":{{"type":"record","name":"org.apache.iceberg.connect.events.Payload","fields":[
            {{"name":"commit_id","type":"uuid_fixed","field-id":10100}},{payload}]}},"field-id":10504}}]}}"#
    )
}

const COMPLETE: &str = r#"{"name":"assignments","default":null,"field-id":10101,"type":["null",{"type":"array","element-id":10102,
    "items":{"type":"record","name":"org.apache.iceberg.connect.events.TopicPartitionOffset","fields":[
    {"name":"topic","type":"string","field-id":10700},{"name":"partition","type":"int","field-id":10701},
    {"name":"offset","type":["null","long"],"default":null,"field-id":10702}]}}]}"#;
const WRITTEN: &str = r#"{"name":"table_reference","field-id":10301,"type":{"type":"record",
    "name":"org.apache.iceberg.connect.events.TableReference","fields":[{"name":"catalog","type":"string","field-id":10600},
    {"name":"namespace","type":{"type":"array","items":"string","element-id":10602},"field-id":10601},
    {"name":"name","type":"string","field-id":10603}]}}"#;

/// A number as Avro writes it.
fn long(number: i64) -> Vec<u8> {
    let mut bits = u64::try_from(number << 1).expect("not below zero");
    let mut bytes = Vec::new();
    while bits >= 0x80 {
        bytes.push(u8::try_from(bits & 0x7f).expect("seven bits") | 0x80);
        bits >>= 7;
    }
    bytes.push(u8::try_from(bits).expect("seven bits"));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(i64::try_from(text.len()).expect("short")), text.as_bytes().to_vec()].concat()
}

fn event(kind: i64, group: &str, commit: u8, payload: &str, rest: Vec<u8>) -> Vec<u8> {
    let schema = schema(payload);
    let length = u16::try_from(schema.len()).expect("short").to_be_bytes().to_vec();
    let head = [MAGIC.to_vec(), length, schema.into_bytes()].concat();
    let row = [vec![9; 16], long(kind), long(0), text(group), vec![commit; 16], rest].concat();
    [head, row].concat()
}

fn written(commit: u8, table: &str) -> Vec<u8> {
    written_by("connect-a", commit, table)
}

fn written_by(group: &str, commit: u8, table: &str) -> Vec<u8> {
    let (namespace, name) = table.split_once('.').expect("a namespace");
    let reference = [text("iceberg"), long(1), text(namespace), long(0), text(name)].concat();
    event(1, group, commit, WRITTEN, reference)
}

fn complete(group: &str, commit: u8, offsets: &[(i32, Option<i64>)]) -> Vec<u8> {
    let one = |(partition, offset): &(i32, Option<i64>)| {
        let offset = offset.map_or_else(|| long(0), |offset| [long(1), long(offset)].concat());
        [text("t"), long(i64::from(*partition)), offset].concat()
    };
    let count = long(i64::try_from(offsets.len()).expect("few"));
    let all = [vec![long(1), count], offsets.iter().map(one).collect(), vec![long(0)]].concat().concat();
    event(2, group, commit, COMPLETE, all)
}

/// The records of partition 0, all by one worker, unless their events say otherwise.
fn records(events: Vec<Vec<u8>>) -> Heard {
    Heard {
        records: (0..).zip(events).filter_map(|(offset, event)| record(0, offset, &event)).collect(),
        ..Heard::default()
    }
}

fn record(partition: i32, offset: i64, event: &[u8]) -> Option<ControlRecord> {
    let sender = format!("w{partition}").into_bytes();
    ControlRecord::read("connect-a", (partition, offset), sender, event).expect("readable")
}

fn group(offsets: &[(i32, i64)]) -> BTreeMap<String, i64> {
    offsets.iter().map(|(partition, offset)| (format!("t/{partition}"), *offset)).collect()
}

fn upto(tables: &[(&str, Option<i64>)]) -> BTreeMap<String, Option<BTreeMap<i32, i64>>> {
    let one = |(table, upto): &(&str, Option<i64>)| ((*table).to_owned(), upto.map(|upto| BTreeMap::from([(0, upto)])));
    tables.iter().map(one).collect()
}

#[test]
fn what_is_in_the_tables_is_where_the_group_is() {
    let history = records(vec![
        written(1, "d.a"),
        complete("connect-a", 1, &[(0, Some(10)), (1, None)]),
        written(2, "d.a"),
        complete("connect-a", 2, &[(0, Some(15)), (1, Some(7))]),
    ]);
    let stop = stopped(&history, "connect-a", group(&[(0, 15), (1, 7)]), &upto(&[("d.a", Some(4))])).expect("told");
    assert_eq!(stop, Stop { offsets: group(&[(0, 15), (1, 7)]), pending: 0 });
}

#[test]
fn rows_in_files_that_no_table_has_are_read_again() {
    let history = records(vec![
        written(1, "d.a"),
        complete("connect-a", 1, &[(0, Some(10)), (1, Some(3))]),
        // A response without rows says nothing.
        complete("connect-a", 2, &[(0, None), (1, None)]),
        written(3, "d.a"),
        complete("connect-a", 3, &[(0, Some(15)), (1, None)]),
        written(4, "d.a"),
        complete("connect-a", 4, &[(0, Some(18))]),
    ]);
    let ask = |at| stopped(&history, "connect-a", group(&[(0, 18), (1, 3)]), &upto(&[("d.a", at)]));
    assert_eq!(ask(Some(3)).expect("told"), Stop { offsets: group(&[(0, 10), (1, 3)]), pending: 2 });
    assert_eq!(ask(Some(5)).expect("told"), Stop { offsets: group(&[(0, 15), (1, 3)]), pending: 1 });
    assert_eq!(ask(Some(7)).expect("told"), Stop { offsets: group(&[(0, 18), (1, 3)]), pending: 0 });
    // Nothing says where the first response began.
    let error = ask(None).expect_err("not told");
    assert!(error.to_string().contains("nothing says where they begin"), "{error}");
}

#[test]
fn a_commit_that_only_some_tables_have_is_refused() {
    let history = records(vec![written(1, "d.a"), written(1, "d.b"), complete("connect-a", 1, &[(0, Some(10))])]);
    let tables = upto(&[("d.a", Some(3)), ("d.b", None)]);
    let error = stopped(&history, "connect-a", group(&[(0, 10)]), &tables).expect_err("half of it");
    assert_eq!(error.to_string(), "table d.a has rows of a commit that d.b does not have yet");
    assert!(error.hint().is_some_and(|hint| hint.contains("once more")));
}

#[test]
fn events_of_other_connectors_say_nothing() {
    let history = records(vec![
        complete("connect-a", 1, &[(0, Some(5))]),
        written_by("connect-b", 2, "d.b"),
        complete("connect-b", 2, &[(0, Some(99))]),
    ]);
    let stop = stopped(&history, "connect-a", group(&[(0, 5)]), &upto(&[])).expect("told");
    assert_eq!(stop, Stop { offsets: group(&[(0, 5)]), pending: 0 });
}

#[test]
fn what_is_no_event_is_passed_over_and_a_broken_event_is_not() {
    for foreign in [&b""[..], b"\x00\x01", b"{}", b"\xC2"] {
        assert_eq!(record(0, 0, foreign), None);
    }
    let cut = &written(1, "d.a")[..40];
    let error = ControlRecord::read("connect-a", (1, 7), Vec::new(), cut).expect_err("cut off");
    assert!(error.to_string().starts_with("partition 1, offset 7: "), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--offline")));
}

#[test]
fn a_group_without_offsets_of_what_was_read_is_refused() {
    let history = records(vec![written(1, "d.a"), complete("connect-a", 1, &[(0, Some(10)), (1, Some(7))])]);
    let ask = |history: &Heard, offsets: &[(i32, i64)], at| {
        stopped(history, "connect-a", group(offsets), &upto(&[("d.a", at)])).map_err(|error| {
            assert!(error.kind() == ErrorKind::Conflict && error.hint().is_some_and(|hint| hint.contains("--offline")));
            error.to_string()
        })
    };
    let nothing = "consumer group connect-a has no offset";
    assert_eq!(
        ask(&Heard::default(), &[], Some(2)),
        Err(format!("{nothing}, and table d.a has commits of the connector"))
    );
    assert_eq!(ask(&history, &[], None), Err(format!("{nothing}, and the control topic has answers of the connector")));
    assert_eq!(
        ask(&history, &[(0, 10)], Some(2)),
        Err(format!("{nothing} of t/1, and the control topic has answers with rows of it"))
    );
    assert_eq!(ask(&history, &[(0, 10), (1, 7)], Some(2)).map(|stop| stop.pending), Ok(0));
    // A connector that never had a row.
    assert_eq!(ask(&Heard::default(), &[], None), Ok(Stop::default()));
}

#[test]
fn snapshots_say_together_what_a_table_has() {
    let of = |said: &[&str]| merged(said.iter().map(|text| (*text).to_owned())).expect("offsets");
    assert_eq!(of(&[]), None);
    // The coordinator was started anew, and has read partition 0 since.
    assert_eq!(of(&[r#"{"0":500}"#, r#"{"0":400,"1":300}"#]), Some(BTreeMap::from([(0, 500), (1, 300)])));
    // The topic was made anew in between.
    assert_eq!(of(&[r#"{"0":5}"#, r#"{"0":3}"#, r#"{"0":400,"1":300}"#]), Some(BTreeMap::from([(0, 5)])));
    assert!(merged(["[1]".to_owned()].into_iter()).is_err());
}

#[test]
fn an_answer_is_no_predecessor_where_another_partition_may_have_had_it() {
    let answer = |partition, offset, commit, end| {
        let events = [written(commit, "d.a"), complete("connect-a", commit, &[(0, Some(end))])];
        (offset..).zip(events).filter_map(move |(offset, event)| record(partition, offset, &event))
    };
    let ask = |begin, also: &[ControlRecord]| {
        let records = answer(0, 10, 1, 10).chain(answer(0, 12, 2, 20)).chain(also.iter().cloned()).collect();
        let heard = Heard { records, begins: BTreeMap::from([(0, 10), (1, begin)]) };
        let tables = BTreeMap::from([("d.a".to_owned(), Some(BTreeMap::from([(0, 12), (1, 40)])))]);
        stopped(&heard, "connect-a", group(&[(0, 20)]), &tables)
    };
    assert_eq!(ask(0, &[]).expect("nothing is gone").offsets, group(&[(0, 10)]));
    let error = ask(40, &[]).expect_err("partition 1 may have had rows 10 to 15");
    assert!(error.to_string().contains("records before 40 of partition 1"), "{error}");
    let before: Vec<ControlRecord> = answer(1, 30, 3, 5).collect();
    assert_eq!(ask(30, &before).expect("it reaches back further").offsets, group(&[(0, 10)]));
}
