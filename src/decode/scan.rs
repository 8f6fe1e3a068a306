//! A pull scanner over the text of one JSON row: what the decoder, inference and routing read with.
//!
//! It hands out slices of the row, numbers among them as they were written, so that a decimal is never a float on its
//! way. It accepts exactly RFC 8259, at most [`DEPTH_MAX`] levels deep, and recurses no deeper than that.

use std::borrow::Cow;

use crate::decode::fault::Fault;

/// Objects and arrays within each other that a row may have.
pub const DEPTH_MAX: usize = 64;

/// What the next value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A number as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<'a> {
    /// Its text, valid by the grammar.
    pub text: &'a str,
    /// Whether it has neither fraction nor exponent.
    pub integer: bool,
}

/// A string as written, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// The characters between the quotes.
    pub raw: &'a str,
    /// Whether there are escapes among them.
    pub escaped: bool,
}

impl<'a> Text<'a> {
    /// The characters it stands for.
    ///
    /// # Errors
    /// A fault of the whole row when an escape is none.
    pub fn unescape(&self) -> Result<Cow<'a, str>, Fault> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        let mut out = String::with_capacity(self.raw.len());
        unescape(self.raw, |text| out.push_str(text))?;
        Ok(Cow::Owned(out))
    }
}

/// A key as it is mostly written, quotes and colon included, to be compared in one go.
#[derive(Debug, Clone)]
pub struct KeyToken {
    text: Box<[u8]>,
    /// Its first 16 bytes as a number, and which bits of that count.
    head: u128,
    mask: u128,
}

impl KeyToken {
    /// The token of this text, such as `"id":`.
    pub fn new(text: &str) -> Self {
        let (mut head, mut mask) = ([0; 16], [0; 16]);
        for ((head, mask), byte) in head.iter_mut().zip(&mut mask).zip(text.bytes()) {
            (*head, *mask) = (byte, 0xff);
        }
        let (head, mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        Self { text: text.as_bytes().into(), head, mask }
    }

    /// Whether `bytes` begin with it.
    #[inline]
    fn leads(&self, bytes: &[u8]) -> bool {
        match bytes.split_first_chunk::<16>() {
            Some((head, _)) if u128::from_le_bytes(*head) & self.mask != self.head => false,
            Some(_) if self.text.len() <= 16 => true,
            _ => bytes.starts_with(&self.text),
        }
    }
}

/// Reads one row from front to back.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// A scanner at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    fn slice(&self, from: usize, to: usize) -> Result<&'a str, Fault> {
        self.text.get(from..to).ok_or_else(|| self.unexpected())
    }

    /// What there is to say about the byte that does not belong here.
    #[cold]
    fn unexpected(&self) -> Fault {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(c) => Fault::row(format!("malformed JSON: unexpected {c:?} at byte {}", self.at)),
            None => Fault::row(format!("malformed JSON: the row ends at byte {} in the middle of a value", self.at)),
        }
    }

    /// The kind of the next value; the scanner stands on its first byte afterwards.
    ///
    /// # Errors
    /// A fault of the whole row when no value begins here.
    pub fn peek(&mut self) -> Result<Kind, Fault> {
        self.space();
        match self.byte() {
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.unexpected()),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.unexpected())
    }

    /// Reads `null`.
    ///
    /// # Errors
    /// As all methods here: a fault of the whole row when the text is not that.
    pub fn null(&mut self) -> Result<(), Fault> {
        self.word("null")
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn boolean(&mut self) -> Result<bool, Fault> {
        let value = self.byte() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn number(&mut self) -> Result<Number<'a>, Fault> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        let mut integer = true;
        if self.byte() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Number { text: self.slice(start, self.at)?, integer })
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let count = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
        if count == 0 {
            return Err(self.unexpected());
        }
        self.at += count;
        Ok(())
    }

    /// Reads a string. Its escapes are not looked into before [`Text::unescape`].
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn string(&mut self) -> Result<Text<'a>, Fault> {
        if self.byte() != Some(b'"') {
            return Err(self.unexpected());
        }
        let start = self.at + 1;
        self.at = start;
        let mut escaped = false;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            self.at += plain_run(rest);
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                _ => return Err(self.unexpected()),
            }
        }
        let raw = self.slice(start, self.at)?;
        self.at += 1;
        Ok(Text { raw, escaped })
    }

    /// Steps into the object or array that begins here.
    ///
    /// # Errors
    /// See [`Self::null`]; also when it is nested too deep.
    pub fn open(&mut self) -> Result<(), Fault> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::row(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Whether another member follows in the object (`close` is `}`) or array (`]`) that is open; steps out of it when
    /// none does. `first` before the first member.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn more(&mut self, close: u8, first: bool) -> Result<bool, Fault> {
        self.space();
        match self.byte() {
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth = self.depth.saturating_sub(1);
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.unexpected()),
        }
    }

    /// Reads a key and its colon.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn key(&mut self) -> Result<Text<'a>, Fault> {
        self.space();
        let key = self.string()?;
        self.space();
        if self.byte() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(key)
    }

    /// Reads the key that `token` is, or nothing when another one is next.
    #[inline]
    pub fn try_key(&mut self, token: &KeyToken) -> bool {
        self.space();
        let found = self.text.as_bytes().get(self.at..).is_some_and(|rest| token.leads(rest));
        if found {
            self.at += token.text.len();
        }
        found
    }

    /// Steps over `text`, a value with brackets around it that was read before, or over nothing when another one is next.
    pub fn try_value(&mut self, text: &str) -> bool {
        self.space();
        let found = self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(text.as_bytes()));
        if found {
            self.at += text.len();
        }
        found
    }

    /// Reads any value and answers its text. Escapes within it are checked.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn skip(&mut self) -> Result<&'a str, Fault> {
        let kind = self.peek()?;
        let start = self.at;
        match kind {
            Kind::Null => self.null()?,
            Kind::Boolean => drop(self.boolean()?),
            Kind::Number => drop(self.number()?),
            Kind::String => drop(self.string()?.unescape()?),
            Kind::Array => {
                self.open()?;
                let mut first = true;
                while self.more(b']', first)? {
                    first = false;
                    self.skip()?;
                }
            }
            Kind::Object => {
                self.open()?;
                let mut first = true;
                while self.more(b'}', first)? {
                    first = false;
                    self.key()?.unescape()?;
                    self.skip()?;
                }
            }
        }
        self.slice(start, self.at)
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// See [`Self::null`].
    pub fn end(&mut self) -> Result<(), Fault> {
        self.space();
        match self.byte() {
            None => Ok(()),
            Some(_) => Err(Fault::row(format!("malformed JSON: more text after the object, at byte {}", self.at))),
        }
    }
}

/// The number that `text` is as a whole, by JSON's grammar.
pub fn number_text(text: &str) -> Option<Number<'_>> {
    let mut scanner = Scanner::new(text);
    let number = scanner.number().ok()?;
    (scanner.at == text.len()).then_some(number)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bit of every byte that is zero; above the lowest such byte there may be false ones.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

fn special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// How many bytes from the front need no attention within a string: no quote, backslash or control character.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    let mut words = words;
    loop {
        // Long plain texts go 32 bytes a turn, in a form that the compiler turns into vector instructions.
        while let Some((block, rest)) = words.split_first_chunk::<4>() {
            let found = block.as_flattened().iter().fold(0_u8, |found, byte| found | u8::from(special(*byte)));
            if found != 0 {
                break;
            }
            at += 32;
            words = rest;
        }
        let Some((word, rest)) = words.split_first() else { break };
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let mask = control | zero_bytes(word ^ (ONES * 0x22)) | zero_bytes(word ^ (ONES * 0x5c));
        if mask != 0 {
            return at + (mask.trailing_zeros() / 8) as usize;
        }
        at += 8;
        words = rest;
    }
    at + tail.iter().position(|byte| special(*byte)).unwrap_or(tail.len())
}

/// Appends what `raw`, the inside of a JSON string, stands for.
///
/// # Errors
/// A fault of the whole row when an escape is none, a lone surrogate included.
pub(crate) fn unescape(raw: &str, mut out: impl FnMut(&str)) -> Result<(), Fault> {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied();
        let mut used = at + 2;
        let c = match escape {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let (c, length) = unicode_escape(&rest[at..]).ok_or_else(|| bad_escape(&rest[at..]))?;
                used = at + length;
                c
            }
            _ => return Err(bad_escape(&rest[at..])),
        };
        out(c.encode_utf8(&mut [0; 4]));
        rest = rest.get(used..).unwrap_or_default();
    }
    out(rest);
    Ok(())
}

/// The character that `\uXXXX` or a pair of them at the front of `text` means, and the escape's length.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let first = unit(0)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first).map(|c| (c, 6));
    }
    let second = unit(6).filter(|unit| (0xdc00..0xe000).contains(unit))?;
    char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).map(|c| (c, 12))
}

#[cold]
fn bad_escape(at: &str) -> Fault {
    let shown: String = at.chars().take(6).collect();
    Fault::row(format!("malformed JSON: {shown:?} is no escape"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_run_ends_at_the_first_special_byte_wherever_it_is() {
        for length in 0..100_usize {
            for at in 0..length {
                for mark in [b'"', b'\\', 0, 0x1f, b'\n'] {
                    let mut bytes = vec![0xc3_u8; length];
                    bytes[at] = mark;
                    assert_eq!(plain_run(&bytes), at, "length {length}, mark {mark:#x}");
                }
            }
            assert_eq!(plain_run(&vec![b'!'; length]), length);
            assert_eq!(plain_run(&vec![0x80; length]), length);
        }
    }

    #[test]
    fn a_key_token_leads_exactly_the_bytes_that_begin_with_it() {
        let keys = [
            "\"\":",
            "\"a\":",
            "\"b\":",
            "\"quantity\":",
            "\"exactly_13_ch\":",
            "\"exactly_14_chr\":",
            "\"a_longer_name_than_one\":",
            "\"a_longer_name_than_two\":",
        ];
        for token in keys {
            for key in keys {
                for rest in ["", "1", "1,\"another\":\"value that is long\"}"] {
                    let row = format!("{key}{rest}");
                    assert_eq!(KeyToken::new(token).leads(row.as_bytes()), key == token, "{token} on {row}");
                }
            }
            assert!(!KeyToken::new(token).leads(&token.as_bytes()[..token.len() - 1]));
        }
    }

    #[test]
    fn escapes_mean_what_the_specification_says_and_nothing_else_is_one() {
        let text = |raw| Text { raw, escaped: true }.unescape().map(Cow::into_owned);
        assert_eq!(text(r#"\"\\\/\b\f\n\r\tA\u00e9\ud83d\ude00é"#).expect("valid"), "\"\\/\u{8}\u{c}\n\r\tAé😀é");
        for bad in [r"\x", r"\u12", r"\u+123", r"\ud83d", r"\ud83dx", r"\ud83dA", r"\ude00", r"\uzzzz", r"\ué00"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nesting_is_limited_without_recursing_further() {
        let fits = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(Scanner::new(&fits).skip().is_ok());
        let deep = "[".repeat(1_000_000);
        assert_eq!(Scanner::new(&deep).skip().expect_err("too deep").reason, "nested deeper than 64 levels");
    }
}
