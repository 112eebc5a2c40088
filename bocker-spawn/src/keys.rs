//! The keys by which one leaves a container's terminal without ending it, in docker's notation: `ctrl-p,ctrl-q`.

use bocker_pipe::{Error, Kind, Result};

/// Docker's.
const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for the sequence in what is typed. As long as it may be the beginning, what was typed is held back.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    sequence: Vec<u8>,
    /// How much of it was typed last, and is held back.
    held: usize,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            sequence: DEFAULT.split(',').filter_map(byte).collect(),
            held: 0,
        }
    }
}

/// A key: a character, or `ctrl-` and one of those that have a control character.
fn byte(key: &str) -> Option<u8> {
    match (key.strip_prefix("ctrl-"), key.as_bytes()) {
        (Some(letter), _) => match letter.as_bytes() {
            [letter @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                Some(letter & 0x1f)
            }
            _ => None,
        },
        (None, [key]) if key.is_ascii_graphic() || *key == b' ' => Some(*key),
        _ => None,
    }
}

impl Keys {
    /// Keys divided by commas; nothing for none. Fails with [`Kind::Invalid`].
    pub(crate) fn parse(text: &str) -> Result<Keys> {
        let invalid = |key: &str| {
            Error::new(Kind::Invalid, format!("'{key}' in '{text}' is not a key"))
                .hint("name letters, or ctrl- and a letter or one of @[\\]^_, divided by commas")
        };
        let keys = text.split(',').filter(|_| !text.is_empty());
        let sequence = keys.map(|key| byte(key).ok_or_else(|| invalid(key)));
        Ok(Keys {
            sequence: sequence.collect::<Result<_>>()?,
            held: 0,
        })
    }

    /// Adds to `passed` what of the bytes is to be passed on. Whether the sequence was typed to its end: what comes after
    /// it is not looked at.
    pub(crate) fn feed(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.held == 0 && self.sequence.first() != Some(byte) {
                passed.push(*byte);
                continue;
            }
            let mut last = self.sequence[..self.held].to_vec();
            last.push(*byte);
            // The longest end of it that the sequence begins with: none of what may still become it is missed.
            let longest = last.len().min(self.sequence.len());
            self.held = (0..=longest)
                .rev()
                .find(|length| last.ends_with(&self.sequence[..*length]))
                .unwrap_or(0);
            passed.extend_from_slice(&last[..last.len() - self.held]);
            if self.held == self.sequence.len() {
                self.held = 0;
                return true;
            }
        }
        false
    }

    /// What is held back, now that nothing more is typed.
    pub(crate) fn rest(&mut self) -> &[u8] {
        let held = std::mem::take(&mut self.held);
        &self.sequence[..held]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was passed on, and whether the sequence came.
    fn typed(keys: &str, pieces: &[&str]) -> (String, bool) {
        let mut keys = Keys::parse(keys).unwrap();
        let mut passed = Vec::new();
        let detached = pieces
            .iter()
            .any(|piece| keys.feed(piece.as_bytes(), &mut passed));
        passed.extend_from_slice(keys.rest());
        (String::from_utf8(passed).unwrap(), detached)
    }

    #[test]
    fn the_default_is_dockers() {
        assert_eq!(Keys::default().sequence, [0x10, 0x11]);
    }

    #[test]
    fn keys_are_letters_and_control_characters() {
        let keys = Keys::parse("ctrl-a,x,ctrl-[,ctrl-@,Z").unwrap();
        assert_eq!(keys.sequence, [1, b'x', 27, 0, b'Z']);
        assert!(Keys::parse("").unwrap().sequence.is_empty());
        for text in [
            "ctrl-", "ctrl-1", "ab", ",", "a,", "ctrl-ab", "\u{e9}", "Ctrl-p",
        ] {
            let error = Keys::parse(text).unwrap_err();
            assert_eq!(error.kind(), &Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn the_sequence_is_found_however_it_comes() {
        assert_eq!(
            typed("ctrl-p,ctrl-q", &["ls\n\u{10}\u{11}x"]),
            ("ls\n".into(), true)
        );
        assert_eq!(
            typed("ctrl-p,ctrl-q", &["\u{10}", "\u{11}"]),
            (String::new(), true)
        );
        assert_eq!(typed("q", &["abq"]), ("ab".into(), true));
    }

    #[test]
    fn what_was_begun_and_not_ended_is_passed_on() {
        assert_eq!(
            typed("ctrl-p,ctrl-q", &["\u{10}x"]),
            ("\u{10}x".into(), false)
        );
        assert_eq!(
            typed("ctrl-p,ctrl-q", &["\u{10}"]),
            ("\u{10}".into(), false)
        );
        assert_eq!(
            typed("ctrl-p,ctrl-q", &["\u{10}\u{10}\u{11}"]),
            ("\u{10}".into(), true)
        );
        assert_eq!(typed("a,a,b", &["aaab"]), ("a".into(), true));
        assert_eq!(typed("a,b,a,c", &["ababac"]), ("ab".into(), true));
    }

    proptest! {
        #[test]
        fn without_the_sequence_every_byte_is_passed_on(pieces in prop::collection::vec(prop::collection::vec(0u8..4, 0..6), 0..6)) {
            let mut keys = Keys { sequence: vec![1, 1, 2], held: 0 };
            let all = pieces.concat();
            let mut passed = Vec::new();
            let detached = pieces.iter().any(|piece| keys.feed(piece, &mut passed));
            prop_assert_eq!(detached, all.windows(3).any(|three| three == [1, 1, 2]));
            if !detached {
                passed.extend_from_slice(keys.rest());
                prop_assert_eq!(passed, all);
            }
        }
    }
}
