//! JSON from strangers: no member twice, bounded nesting, a bounded number of values.
//!
//! Touches: nothing. RFC 8259; RFC 7515 §4 and RFC 7519 §4 leave it to the reader whether a member that occurs twice is an
//! error. It is one here: two readers could see two different tokens.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::de::SliceRead;
pub use serde_json::{Map, Value};

/// The deepest nesting of lists and objects.
const DEPTH_MAX: usize = 16;

/// Why a text is not taken: the words of the parser, with the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Reads an object with at most `values_max` values in it, at any depth.
pub fn object(text: &[u8], values_max: usize) -> Result<Map<String, Value>, Fault> {
    let fault = |error: serde_json::Error| Fault(error.to_string());
    let mut parser = Deserializer::new(SliceRead::new(text));
    let left = Cell::new(values_max);
    let value = Strict { left: &left, depth: 0 }.deserialize(&mut parser).map_err(fault)?;
    parser.end().map_err(fault)?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Fault("it is not an object".to_owned())),
    }
}

/// Reads one value, and counts those inside it.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Strict<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        match self.depth {
            DEPTH_MAX => Err(E::custom(format!("lists and objects are nested more than {DEPTH_MAX} deep"))),
            depth => Ok(Self { depth: depth + 1, ..self }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(D::Error::custom("there are too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("a second member {:?}", short(&name))));
            }
            let value = members.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// The beginning of a text that a stranger has written, for messages.
pub fn short(text: &str) -> &str {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

const SHOWN_CHARS_MAX: usize = 64;

/// The text of a value, as variables have it: of a list its elements with commas between them, of an object its JSON. `None`
/// for `null`.
pub fn put_text(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => return false,
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                match value {
                    Value::Array(_) => out.extend_from_slice(value.to_string().as_bytes()),
                    other => {
                        put_text(other, out);
                    }
                }
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            out.extend_from_slice(value.to_string().as_bytes())
        }
    }
    true
}
