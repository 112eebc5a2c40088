//! Sizes in bytes as people write them, in Docker's units.

use crate::error::{Error, Kind, Result};

/// What the letters after a number mean: alone, or with `iB`, powers of 1024, as Docker has them; with `B`, of 1000.
const UNITS: [(char, u64, u64); 4] = [
    ('k', 1 << 10, 1_000),
    ('m', 1 << 20, 1_000_000),
    ('g', 1 << 30, 1_000_000_000),
    ('t', 1 << 40, 1_000_000_000_000),
];

/// Parses a size: `512m`, `512MiB` and `512MB`, `1g`, `1048576`, `1048576b`. Fails with [`Kind::Invalid`] when it is none;
/// one that is too large for the machine is the largest there is.
pub fn parse(text: &str) -> Result<u64> {
    let malformed = || {
        Error::new(Kind::Invalid, format!("'{text}' is not a size"))
            .hint("write it as 512m (1024 * 1024), 512MB (1000 * 1000) or a number of bytes")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let mut letters = unit.chars();
    let factor = match (letters.next(), letters.as_str()) {
        (None | Some('b'), "") => 1,
        (Some(letter), rest) => {
            let (_, binary, decimal) = UNITS
                .into_iter()
                .find(|(name, _, _)| *name == letter)
                .ok_or_else(malformed)?;
            match rest {
                "" | "ib" => binary,
                "b" => decimal,
                _ => return Err(malformed()),
            }
        }
        _ => return Err(malformed()),
    };
    if number.is_empty() {
        return Err(malformed());
    }
    let number = number.parse::<u64>().unwrap_or(u64::MAX);
    Ok(number.saturating_mul(factor))
}

/// A size as people write it: in the largest unit that divides it.
pub fn show(bytes: u64) -> String {
    let units = [
        ("MB", 1_000_000),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    units
        .into_iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .map_or(format!("{bytes} bytes"), |(unit, factor)| {
            format!("{} {unit}", bytes / factor)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_shown_in_the_unit_that_divides_it() {
        assert_eq!(show(512_000_000), "512 MB");
        assert_eq!(show(512 << 20), "512 MiB");
        assert_eq!(show(1 << 30), "1 GiB");
        assert_eq!(show(524_288), "512 KiB");
        assert_eq!(show(1_234_567), "1234567 bytes");
        assert_eq!(show(0), "0 bytes");
    }

    #[test]
    fn a_size_that_no_machine_has_is_the_largest() {
        for text in ["18446744073709551616", "16777216t", "99999999999g"] {
            assert_eq!(parse(text).unwrap(), u64::MAX, "{text}");
        }
        assert_eq!(parse("1.5g").unwrap_err().kind(), &Kind::Invalid);
    }
}
