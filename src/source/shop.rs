//! What an event of the replayed web shop looks like: a pure function of seed, partition and offset.
//!
//! The rows are a contract with benchmarks and demos: a golden test holds the first ones.

/// When the shop opened: 2026-01-01T00:00:00Z, in milliseconds since the epoch.
const OPENED_MS: u64 = 1_767_225_600_000;
/// Shop time between two events of a partition.
const STEP_MS: u64 = 1_000;
/// Events of one visitor in a row.
const SESSION_ROWS: u64 = 12;
const PRODUCTS: u64 = 1_024;
const CUSTOMERS: u64 = 250_000;
/// The end of the year 9999, the last time that four digits of year can say.
const LATEST_MS: u64 = 253_402_300_799_999;

const MATERIALS: [&str; 8] = ["Oak", "Linen", "Steel", "Merino", "Ceramic", "Bamboo", "Copper", "Recycled"];
const THINGS: [(&str, &str); 16] = [
    ("Desk Lamp", "home/lighting"),
    ("Reading Chair", "home/furniture"),
    ("Travel Mug", "kitchen/drinkware"),
    ("Chef's Knife", "kitchen/tools"),
    ("Running Jacket", "apparel/outdoor"),
    ("Wool Scarf", "apparel/accessories"),
    ("Trail Shoe", "apparel/footwear"),
    ("Field Notebook", "office/paper"),
    ("Fountain Pen", "office/writing"),
    ("Standing Desk", "office/furniture"),
    ("Mechanical Keyboard", "electronics/input"),
    ("Bluetooth Speaker", "electronics/audio"),
    ("Camping Stove", "outdoor/cooking"),
    ("Climbing Rope", "outdoor/climbing"),
    ("Garden Shears", "garden/tools"),
    ("Plant Pot", "garden/decoration"),
];
const COUNTRIES: [(&str, &str); 10] = [
    ("DE", "EUR"),
    ("FR", "EUR"),
    ("AT", "EUR"),
    ("US", "USD"),
    ("US", "USD"),
    ("GB", "GBP"),
    ("JP", "JPY"),
    ("BR", "BRL"),
    ("IN", "INR"),
    ("CH", "CHF"),
];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "ShopApp/4.12.0 (Android 14; SM-S921B) okhttp/4.12.0",
];
const TAGS: [&str; 8] = [
    r#"[]"#,
    r#"["new"]"#,
    r#"["sale"]"#,
    r#"["sale","clearance"]"#,
    r#"["bestseller"]"#,
    r#"["new","gift","bestseller"]"#,
    r#"["eco"]"#,
    r#"["eco","gift"]"#,
];
const ATTRIBUTES: [&str; 8] = [
    r#"{"device":"mobile","referrer":"https://search.example/?q=shop","campaign":"summer-26"}"#,
    r#"{"device":"desktop","ab_test":"checkout-b"}"#,
    r#"{"device":"desktop","referrer":"https://news.example/best-desk-lamps","ab_test":"checkout-a"}"#,
    r#"{"device":"mobile","campaign":"newsletter-14","locale":"de-DE"}"#,
    r#"{"device":"tablet","locale":"fr-FR","ab_test":"search-c"}"#,
    r#"{"device":"mobile"}"#,
    r#"{"device":"app","push":"cart-reminder","locale":"ja-JP"}"#,
    r#"{"device":"desktop","campaign":"retarget-7","referrer":"https://social.example/p/81237712"}"#,
];

/// The events of one seed, with what all rows share made once.
#[derive(Debug)]
pub(super) struct Shop {
    seed: u64,
    products: Vec<Product>,
}

#[derive(Debug)]
struct Product {
    json: String,
    category: &'static str,
    cents: u64,
}

/// A stream of numbers that a row draws from: splitmix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product is uniform enough for bounds far below 2^32.
        ((self.next() >> 32) * bound) >> 32
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).ok()?)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Shop {
    pub(super) fn new(seed: u64) -> Self {
        let mut draw = Draw(mix(seed ^ 0x5b0b));
        let products = (0..PRODUCTS)
            .map(|number| {
                let material = draw.pick(&MATERIALS).copied().unwrap_or_default();
                let (thing, category) = draw.pick(&THINGS).copied().unwrap_or_default();
                let cents = 199 + draw.below(60_000);
                let json = format!(
                    r#"{{"sku":"SKU-{number:05}","name":"{material} {thing}","category":"{category}","price":"{}.{:02}"}}"#,
                    cents / 100,
                    cents % 100
                );
                Product { json, category, cents }
            })
            .collect();
        Self { seed, products }
    }

    /// Appends the row at `offset` of `partition`, one JSON object without a newline; returns when it was written, in
    /// milliseconds since the epoch.
    pub(super) fn write(&self, partition: u32, offset: u64, out: &mut Vec<u8>) -> u64 {
        let shard = mix(self.seed ^ mix(u64::from(partition) + 1));
        let visit = mix(shard ^ mix(offset / SESSION_ROWS));
        let mut visitor = Draw(visit);
        let mut draw = Draw(mix(shard ^ mix(offset ^ 0xe7e4_0000_0000_0000)));

        let ordered = OPENED_MS.saturating_add(offset.saturating_mul(STEP_MS)).saturating_add(draw.below(STEP_MS));
        let written = ordered.saturating_add(draw.below(1_500)).min(LATEST_MS);
        let customer = 1 + visitor.below(CUSTOMERS);
        let (country, currency) = visitor.pick(&COUNTRIES).copied().unwrap_or_default();
        let event = match draw.below(100) {
            0..=71 => "page_view",
            72..=89 => "add_to_cart",
            90..=97 => "purchase",
            _ => "refund",
        };
        let quantity = if event == "page_view" { 1 } else { 1 + draw.below(4) };
        let discount = if draw.below(5) == 0 { 5 + draw.below(6) * 5 } else { 0 };

        text(out, r#"{"event":""#);
        text(out, event);
        text(out, r#"","event_id":""#);
        uuid(out, draw.next(), draw.next());
        text(out, r#"","order_ts":""#);
        timestamp(out, ordered.min(LATEST_MS));
        text(out, r#"","event_time":""#);
        timestamp(out, written);
        text(out, r#"","customer_id":"#);
        number(out, customer);
        text(out, r#","session":""#);
        hex(out, visit, 16);
        text(out, r#"","product":"#);
        let product = draw.pick(&self.products);
        text(out, product.map_or("null", |p| p.json.as_str()));
        text(out, r#","quantity":"#);
        number(out, quantity);
        text(out, r#","amount":"#);
        let full = product.map_or(0, |p| p.cents) * quantity;
        amount(out, event == "refund", full - full * discount / 100);
        text(out, r#","currency":""#);
        text(out, currency);
        text(out, r#"","country":""#);
        text(out, country);
        text(out, r#"","tags":"#);
        text(out, draw.pick(&TAGS).copied().unwrap_or("[]"));
        text(out, r#","attributes":"#);
        text(out, visitor.pick(&ATTRIBUTES).copied().unwrap_or("{}"));
        text(out, r#","url":"https://www.shop.example/catalogue/"#);
        text(out, product.map_or("", |p| p.category));
        text(out, "?position=");
        number(out, draw.below(60));
        text(out, "&listing=");
        hex(out, draw.next(), 12);
        text(out, r#"","user_agent":""#);
        text(out, visitor.pick(&AGENTS).copied().unwrap_or_default());
        text(out, r#"","coupon":"#);
        if discount == 0 {
            text(out, "null");
        } else {
            text(out, r#""SAVE"#);
            number(out, discount);
            out.push(b'-');
            hex(out, draw.next(), 6);
            out.push(b'"');
        }
        out.push(b'}');
        written
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn number(out: &mut Vec<u8>, value: u64) {
    text(out, itoa::Buffer::new().format(value));
}

/// `width` decimal digits, at most 20.
fn padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value);
    out.resize(out.len() + width.saturating_sub(digits.len()), b'0');
    text(out, digits);
}

/// The last `width` hexadecimal digits of `value`.
fn hex(out: &mut Vec<u8>, value: u64, width: u32) {
    for digit in (0..width.min(16)).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit) & 0xf) as usize]);
    }
}

/// A version 4 UUID of two random numbers.
fn uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    hex(out, high >> 32, 8);
    out.push(b'-');
    hex(out, high >> 16, 4);
    out.push(b'-');
    hex(out, high & 0x0fff | 0x4000, 4);
    out.push(b'-');
    hex(out, (low >> 48) & 0x3fff | 0x8000, 4);
    out.push(b'-');
    hex(out, low, 12);
}

fn amount(out: &mut Vec<u8>, negative: bool, cents: u64) {
    if negative {
        out.push(b'-');
    }
    number(out, cents / 100);
    out.push(b'.');
    padded(out, cents % 100, 2);
}

/// `2026-01-31T23:59:59.999Z`.
fn timestamp(out: &mut Vec<u8>, ms: u64) {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    padded(out, year, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
    out.push(b'T');
    padded(out, rest / 3_600_000, 2);
    out.push(b':');
    padded(out, rest / 60_000 % 60, 2);
    out.push(b':');
    padded(out, rest / 1_000 % 60, 2);
    out.push(b'.');
    padded(out, rest % 1_000, 3);
    out.push(b'Z');
}

/// Year, month and day of a day number since 1970-01-01, by counting in eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for ms in [0, 951_782_400_000, OPENED_MS, 1_772_236_799_999, 4_107_542_399_001, LATEST_MS] {
            let mut out = vec![];
            timestamp(&mut out, ms);
            let expected = DateTime::from_timestamp_millis(ms.cast_signed()).expect("in range");
            let expected = expected.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            assert_eq!(String::from_utf8(out).expect("ascii"), expected);
        }
    }

    #[test]
    fn rows_are_json_objects_of_about_the_promised_size() {
        let shop = Shop::new(42);
        let mut total = 0;
        for offset in (0..2_000).chain([u64::MAX / 2, i64::MAX as u64]) {
            let mut row = vec![];
            shop.write(3, offset, &mut row);
            let value: serde_json::Value = serde_json::from_slice(&row).expect("JSON");
            let fields = value.as_object().expect("an object");
            assert_eq!(fields.len(), 16);
            let id: uuid::Uuid = fields["event_id"].as_str().expect("text").parse().expect("a UUID");
            assert_eq!(id.get_version_num(), 4);
            assert!(fields["amount"].is_f64() && fields["customer_id"].is_u64());
            total += row.len();
        }
        assert!((600..1_000).contains(&(total / 2_002)), "{} bytes a row", total / 2_002);
    }
}
