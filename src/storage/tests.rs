use super::*;
use crate::config::Secret;

fn store(prefix: &str, options: &[(&str, &str)]) -> StoreConfig {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect();
    StoreConfig { prefix: prefix.to_owned(), options }
}

fn storage(stores: Vec<StoreConfig>) -> Storage {
    Storage::new(StorageOptions { stores, requests_max: 4, retries: 1 }, Env::system())
}

fn settings(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn same(a: &Storage, b: &Storage, location: &str) -> bool {
    let (a, b) = (a.resolve(location).expect("resolve").0, b.resolve(location).expect("resolve").0);
    Arc::ptr_eq(&a, &b)
}

#[test]
fn the_longest_prefix_gives_the_options() {
    let storage = storage(vec![
        store("s3://lake", &[("region", "one")]),
        store("s3://lake/raw/", &[("region", "two")]),
        store("s3://", &[("region", "any")]),
        store("abfss://c@acct.dfs.core.windows.net", &[("sas_token", "sv=1")]),
    ]);
    let table = [
        ("s3://lake/t/f", "one"),
        ("s3a://lake/t/f", "one"),
        ("s3://lake/raw/f", "two"),
        ("s3n://lake/raw/deep/f", "two"),
        ("s3://lake/rawest/f", "one"),
        ("s3://lakes/raw/f", "any"),
        ("abfs://c@acct.dfs.core.windows.net/f", "sv=1"),
    ];
    for (text, value) in table {
        let location = Location::object(text).expect(text);
        let options = storage.options(&location, text);
        assert_eq!(options.values().map(String::as_str).collect::<Vec<_>>(), [value], "{text}");
    }
    let location = Location::object("gs://lake/f").expect("valid");
    assert!(storage.options(&location, "gs://lake/f").is_empty());
}

#[test]
fn one_bucket_with_the_same_credentials_has_one_client() {
    let plain = storage(vec![store("s3://lake", &[("region", "eu-west-1")])]);
    let credentials = [("s3.access-key-id", "a"), ("s3.secret-access-key", "b"), ("s3.session-token", "c")];
    let one = plain.vended(&settings(&credentials)).expect("vended");
    let two = plain.vended(&settings(&[&credentials[..], &[("owner", "somebody")]].concat())).expect("vended");
    let other = plain.vended(&settings(&[credentials[0], credentials[1], ("s3.session-token", "d")])).expect("vended");
    let none = plain.vended(&settings(&[("owner", "somebody")])).expect("vended");
    assert!(same(&one, &two, "s3://lake/f"));
    assert!(same(&one, &two, "s3a://lake/g/h"));
    assert!(same(&plain, &none, "s3://lake/f"));
    assert!(!same(&one, &other, "s3://lake/f"));
    assert!(!same(&one, &plain, "s3://lake/f"));
    assert!(same(&plain, &one, "memory:///f"), "objects in memory do not depend on credentials");
}

#[test]
fn clients_that_nobody_uses_make_room() {
    let plain = storage(Vec::new());
    plain.resolve("memory:///kept").expect("memory");
    let first = plain.resolve("s3://b0/f").expect("resolve").0;
    for bucket in 1..CLIENTS_MAX + 20 {
        plain.resolve(&format!("s3://b{bucket}/f")).expect("resolve");
    }
    plain.shared.with_clients(|clients| {
        assert_eq!(clients.by_key.len(), CLIENTS_MAX);
        assert!(clients.by_key.keys().any(|(scheme, ..)| *scheme == Scheme::Memory));
    });
    assert!(!Arc::ptr_eq(&first, &plain.resolve("s3://b0/f").expect("resolve").0));
}

#[test]
fn neither_storage_nor_its_errors_show_a_secret() {
    let plain = storage(vec![store("s3://lake", &[("secret_access_key", "TOPSECRET"), ("no_such", "TOPSECRET")])]);
    let vended = plain.vended(&settings(&[("s3.session-token", "TOPSECRET")])).expect("vended");
    let error = plain.resolve("s3://lake/f").map(|_| ()).expect_err("unknown option");
    assert_eq!(error.to_string(), r#"store "s3://lake/" knows no option "no_such""#);
    for text in [format!("{plain:?}"), format!("{vended:?}"), format!("{error:?}")] {
        assert!(!text.contains("TOPSECRET"), "{text}");
    }
}

#[test]
fn a_bad_location_fails_before_anything_is_asked() {
    let plain = storage(Vec::new());
    for (text, kind) in [("x/y", ErrorKind::Config), ("hdfs://n/f", ErrorKind::Unsupported)] {
        assert_eq!(plain.resolve(text).map(|_| ()).expect_err(text).kind(), kind);
    }
    assert!(plain.counters().snapshot().values().all(|counts| *counts == counters::OperationCounts::default()));
}
