//! Parts of documents: of many containers little is asked, and what is not asked for is passed over without being kept.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Which members of a document are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    whole: bool,
    members: Vec<(String, Parts)>,
}

impl Parts {
    /// Those that JSON pointers (RFC 6901) name; the empty one is everything.
    pub fn of<'a>(pointers: impl IntoIterator<Item = &'a str>) -> Parts {
        let mut parts = Parts::default();
        pointers.into_iter().for_each(|pointer| parts.add(pointer));
        parts
    }

    /// Wants one more.
    pub fn add(&mut self, pointer: &str) {
        let mut place = self;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let found = place.members.iter().position(|(name, _)| *name == token);
            let index = found.unwrap_or_else(|| {
                place.members.push((token, Parts::default()));
                place.members.len() - 1
            });
            place = &mut place.members[index].1;
        }
        place.whole = true;
    }

    /// Reads them out of one JSON text.
    pub fn read(&self, bytes: &[u8]) -> serde_json::Result<Value> {
        let mut from = serde_json::Deserializer::from_slice(bytes);
        let value = self.deserialize(&mut from)?;
        from.end().map(|()| value)
    }

    /// The same of a tree, to be written.
    pub fn of_value<'a>(&'a self, value: &'a Value) -> PartsOf<'a> {
        PartsOf { parts: self, value }
    }
}

/// Parts of a tree, which stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct PartsOf<'a> {
    parts: &'a Parts,
    value: &'a Value,
}

impl Serialize for PartsOf<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.value {
            value if self.parts.whole => value.serialize(to),
            Value::Object(members) => {
                let mut map = to.serialize_map(None)?;
                for (name, parts) in &self.parts.members {
                    if let Some(value) = members.get(name) {
                        map.serialize_entry(name, &parts.of_value(value))?;
                    }
                }
                map.end()
            }
            _ => to.serialize_unit(),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Parts {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        match self.whole {
            true => Value::deserialize(from),
            false => from.deserialize_any(self),
        }
    }
}

/// Of what is no object nothing can be wanted.
impl<'de> Visitor<'de> for &Parts {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut wanted = Map::new();
        while let Some(member) = map.next_key_seed(Name(&self.members))? {
            match member {
                Some((name, parts)) => {
                    wanted.insert(name.clone(), map.next_value_seed(parts)?);
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(wanted))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// The name of a member: which of these it is, if it is one. It is kept nowhere.
#[derive(Clone, Copy)]
struct Name<'a>(&'a [(String, Parts)]);

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a (String, Parts)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Name<'a> {
    type Value = Option<&'a (String, Parts)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(member, _)| member == name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"{"a":{"b":[1,{"c":2}],"d":"x","e/f":1.50},"g":null,"h":{"i":1e+400}}"#;

    fn read(pointers: &[&str]) -> String {
        let parts = Parts::of(pointers.iter().copied());
        parts.read(TEXT.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn what_is_asked_for_comes_as_it_was_written_and_nothing_else() {
        assert_eq!(
            read(&["/a/b", "/h"]),
            r#"{"a":{"b":[1,{"c":2}]},"h":{"i":1e+400}}"#
        );
        assert_eq!(read(&["/a/e~1f", "/none/at/all"]), r#"{"a":{"e/f":1.50}}"#);
        let tilde = Parts::of(["/~01"]).read(br#"{"~1": 1, "/": 2}"#).unwrap();
        assert_eq!(tilde, json!({"~1": 1}));
        assert_eq!(read(&[""]), TEXT);
        assert_eq!(read(&[]), "{}");
        assert_eq!(read(&["/a", "/a/b"]), read(&["/a"]));
    }

    #[test]
    fn below_what_is_no_object_there_is_nothing() {
        for text in ["[1]", "1", "-1", "1.5", "\"a\"", "true", "null"] {
            let text = format!("{{\"a\":{text}}}");
            let parts = Parts::of(["/a/b"]);
            let read = parts.read(text.as_bytes()).unwrap();
            assert_eq!(read.pointer("/a/b"), None, "{text}");
        }
        assert!(Parts::of(["/a"]).read(b"{} {}").is_err());
        assert!(Parts::of(["/a"]).read(b"{\"b\":}").is_err());
    }

    proptest! {
        #[test]
        fn a_part_is_what_stands_in_the_whole(a in any::<i64>(), b in "\\PC{0,8}", pointer in "(/[ab]){0,3}") {
            let whole = json!({"a": {"a": a, "b": {"a": b, "b": [b]}}, "b": b});
            let parts = Parts::of([pointer.as_str()]);
            let read = parts.read(whole.to_string().as_bytes()).unwrap();
            prop_assert_eq!(read.pointer(&pointer), whole.pointer(&pointer));
            prop_assert_eq!(serde_json::to_value(parts.of_value(&whole)).unwrap(), read);
        }
    }
}
