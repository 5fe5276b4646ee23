//! Reading values the way their many writers spell them: a number as a string, a field of the wrong type.
//!
//! But for [`object`] these functions are for `#[serde(deserialize_with)]`. A value that cannot be read becomes
//! `None`, never an error: one field must not cost the rest of the message.

use std::fmt;

use crate::SecretString;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A message that is a JSON object. A struct would else be read from an array too, by the order of its fields.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
pub(crate) fn object<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') { serde_json::from_slice(bytes).ok() } else { None }
}

/// A text; `None` for `null` and for every other type.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match deserializer.deserialize_any(ScalarVisitor)? {
        Scalar::Text(text) => Some(text),
        _ => None,
    })
}

/// A whole number of seconds, written as a number, a float or a decimal string.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(deserializer.deserialize_any(ScalarVisitor)?.seconds())
}

/// An array of numbers; what is not a number in it is left out.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
pub(crate) fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Numbers;
    impl<'de> Visitor<'de> for Numbers {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of numbers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u64>, A::Error> {
            let mut numbers = Vec::new();
            while let Some(item) = items.next_element::<ScalarValue>()? {
                numbers.extend(item.0.seconds().and_then(|number| u64::try_from(number).ok()));
            }
            Ok(numbers)
        }

        fn visit_unit<E>(self) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_str<E>(self, _: &str) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_i64<E>(self, _: i64) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_u64<E>(self, _: u64) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_f64<E>(self, _: f64) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_bool<E>(self, _: bool) -> Result<Vec<u64>, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u64>, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Vec::new())
        }
    }
    deserializer.deserialize_any(Numbers)
}

/// One JSON value, as far as scalars go.
pub(crate) enum Scalar {
    Text(String),
    Number(i64),
    /// `null`, an array, an object, a boolean, a number out of range.
    Other,
}

impl Scalar {
    pub(crate) fn seconds(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => parse_seconds(text),
            Self::Other => None,
        }
    }
}

/// Seconds from a decimal string; a fraction is cut off.
pub(crate) fn parse_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| float_seconds(text.parse().ok()?))
}

#[allow(clippy::cast_possible_truncation)] // checked just before
pub(super) fn float_seconds(number: f64) -> Option<i64> {
    // 2^53: beyond it a float is no whole second any more.
    (number.is_finite() && number.abs() <= 9_007_199_254_740_992.0).then_some(number.floor() as i64)
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(number).map_or(Scalar::Other, Scalar::Number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(float_seconds(number).map_or(Scalar::Other, Scalar::Number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

struct ScalarValue(Scalar);

impl<'de> Deserialize<'de> for ScalarValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor).map(Self)
    }
}

/// A secret text; `None` for `null` and for every other type.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
pub(crate) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(text(deserializer)?.map(SecretString::from))
}
