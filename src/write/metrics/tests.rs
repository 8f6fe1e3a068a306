use proptest::prelude::*;

use super::*;

fn strings(text: &str, length: usize) -> (String, Option<String>) {
    let bound = Datum::string(text);
    let mode = MetricsMode::Truncate(length);
    let as_text = |datum: Datum| String::from_utf8(bytes_of(&datum).expect("bytes")).expect("text");
    (as_text(cut_lower(&bound, mode).expect("lower")), cut_upper(bound, mode).expect("upper").map(as_text))
}

#[test]
fn text_bounds_are_cut_at_code_points_and_raised_where_they_can_be() {
    let max = "\u{10FFFF}";
    for (text, length, lower, upper) in [
        ("abc", 3, "abc", Some("abc".to_owned())),
        ("abcd", 3, "abc", Some("abd".to_owned())),
        ("", 1, "", Some(String::new())),
        ("äöü", 2, "äö", Some("ä÷".to_owned())),
        ("a\u{D7FF}b", 2, "a\u{D7FF}", Some("a\u{E000}".to_owned())),
        (&format!("a{max}b"), 2, &format!("a{max}"), Some("b".to_owned())),
        (&format!("{max}{max}b"), 2, &format!("{max}{max}"), None),
    ] {
        assert_eq!(strings(text, length), (lower.to_owned(), upper), "{text:?}");
    }
}

#[test]
fn binary_bounds_are_cut_and_raised_by_bytes() {
    let upper = |bytes: &[u8]| {
        let cut = cut_upper(Datum::binary(bytes.iter().copied()), MetricsMode::Truncate(2)).expect("cut");
        cut.map(|datum| bytes_of(&datum).expect("bytes"))
    };
    assert_eq!(upper(&[1, 2]), Some(vec![1, 2]));
    assert_eq!(upper(&[1, 2, 0]), Some(vec![1, 3]));
    assert_eq!(upper(&[1, 255, 0]), Some(vec![2]));
    assert_eq!(upper(&[255, 255, 0]), None);
}

proptest! {
    #[test]
    fn a_cut_bound_still_bounds(text in ".{0,8}", length in 1_usize..5) {
        let (lower, upper) = strings(&text, length);
        prop_assert!(lower <= text && lower.chars().count() <= length);
        if let Some(upper) = upper {
            prop_assert!(upper >= text, "{upper:?} < {text:?}");
            prop_assert!(upper.chars().count() <= length);
        }
    }
}
