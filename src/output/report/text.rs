//! Values as text for a person, and text as HTML.

/// Text as HTML, also within quotes. Control characters, which HTML does not allow, become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(character),
            control if control.is_control() => html.push('\u{fffd}'),
            other => html.push(other),
        }
    }
    html
}

/// A number of things, with a comma after every three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as per cent with one decimal; a dash where it is no number.
pub fn percent(share: f64) -> String {
    if share.is_finite() {
        // The sum of no shares is -0.
        format!("{:.1} %", 100.0 * share + 0.0)
    } else {
        "\u{2013}".to_owned()
    }
}

/// A span of time: `0.42 s`, `7.5 s`, `3 min 20 s`, `2 h 5 min`; a dash where it is no number.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "\u{2013}".to_owned();
    }
    if seconds < 1.0 {
        return format!("{seconds:.2} s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{} min {} s", whole / 60, whole % 60);
    }
    format!("{} h {} min", count(whole / 3600), whole % 3600 / 60)
}

/// A rate: two decimals below 10, one below 100, none above.
pub fn rate(value: f64) -> String {
    match value {
        small if small < 9.995 => format!("{value:.2}"),
        medium if medium < 99.95 => format!("{value:.1}"),
        large if large.is_finite() => count(value.round() as u64),
        _ => "\u{2013}".to_owned(),
    }
}

/// A size in bytes: `999 bytes`, `1.5 kB`, `2.0 GB`; powers of 1000.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        // 999.95 and above would print as 1000.0.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "bytes" {
        format!("{} bytes", count(bytes))
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A number of any magnitude, with four significant digits.
pub fn number(value: f64) -> String {
    if value == 0.0 || (1e-3..1e6).contains(&value.abs()) {
        let decimals = (3.0 - value.abs().max(1e-3).log10().floor()).clamp(0.0, 6.0) as usize;
        return without_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let text = format!("{value:.3e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{}e{exponent}", without_zeros(digits)),
        None => text,
    }
}

/// Without the zeros at the end of a fraction.
fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    }
}

/// `1 image`, `2 images`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Puts values in the place of `{{name}}`, in one pass: what a value contains is left alone.
///
/// # Panics
///
/// Where the template names a value that is not given: it is part of the program.
pub fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").expect("a place ends with }}");
        let (_, value) = values
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("the template names {name:?}"));
        text.push_str(value);
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_html_would_act_on_is_left() {
        assert_eq!(
            escape("<script>alert('1' & \"2\")</script>\u{0}\u{1b}[31m größe 果物\n"),
            "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;\u{fffd}\u{fffd}[31m \
             größe 果物\n"
        );
    }

    #[test]
    fn counts_have_commas() {
        let table = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ];
        for (value, text) in table {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn spans_of_time_read_well() {
        let table = [
            (0.0, "0.00 s"),
            (0.416, "0.42 s"),
            (7.46, "7.5 s"),
            (59.96, "1 min 0 s"),
            (200.4, "3 min 20 s"),
            (3599.7, "1 h 0 min"),
            (7523.0, "2 h 5 min"),
            (f64::NAN, "\u{2013}"),
        ];
        for (seconds, text) in table {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn shares_are_per_cent() {
        assert_eq!(percent(0.95), "95.0 %");
        assert_eq!(percent([].iter().sum()), "0.0 %");
        assert_eq!(percent(f64::NAN), "\u{2013}");
    }

    #[test]
    fn rates_have_about_three_digits() {
        let table = [
            (0.0, "0.00"),
            (7.318, "7.32"),
            (9.999, "10.0"),
            (24.71, "24.7"),
            (99.96, "100"),
            (1234.4, "1,234"),
            (f64::INFINITY, "\u{2013}"),
        ];
        for (value, text) in table {
            assert_eq!(rate(value), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        let table = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1500, "1.5 kB"),
            (999_960, "1.0 MB"),
            (2_000_000_000, "2.0 GB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_keep_four_digits() {
        let table = [
            (0.0, "0"),
            (2048.0, "2048"),
            (1.5, "1.5"),
            (0.012346, "0.01235"),
            (1.5e-16, "1.5e-16"),
            (-123_456.0, "-123456"),
            (1e300, "1e300"),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn a_value_that_looks_like_a_place_is_left_alone() {
        let values = [("a", "{{b}}".to_owned()), ("b", "B".to_owned())];
        assert_eq!(fill("1 {{a}} 2 {{b}} 3", &values), "1 {{b}} 2 B 3");
        assert_eq!(fill("plain", &values), "plain");
    }
}
