//! Values inside requests whose JSON form serde's derive would take too widely or explain too poorly.

use std::fmt;
use std::marker::PhantomData;

use danaus_engine::{Padding, Pooling};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

/// One text or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Texts as such.
pub(crate) type TextInput = OneOrMany<String>;

/// A list of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextList(pub(crate) Vec<String>);

/// Number of components to keep: at least 1; the model's dimension, its maximum, is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dimensions(pub(crate) usize);

/// The name of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolingName(pub(crate) Pooling);

/// The name of a padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PaddingName(pub(crate) Padding);

/// A struct that is read from a JSON object only: serde's derive alone would also take a list of its fields.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de> Deserialize<'de> for TextInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = TextInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TextInput, E> {
                Ok(TextInput::One(text.to_owned()))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<TextInput, E> {
                Ok(TextInput::One(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TextInput, A::Error> {
                read_list(list).map(TextInput::Many)
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for TextList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = TextList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TextList, A::Error> {
                read_list(list).map(TextList)
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

fn read_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<String>, A::Error> {
    let mut texts = Vec::new();
    while let Some(text) = list.next_element()? {
        texts.push(text);
    }
    Ok(texts)
}

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimensionsVisitor;
        impl Visitor<'_> for DimensionsVisitor {
            type Value = Dimensions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer from 1 to the model's dimension")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Dimensions, E> {
                match usize::try_from(value) {
                    Ok(count @ 1..) => Ok(Dimensions(count)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
                }
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Dimensions, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
                }
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Dimensions, E> {
                // JSON has one kind of number: 64.0 is the integer 64. Above 2^32 no dimension is meant.
                if value.fract() == 0.0 && (1.0..=4_294_967_295.0).contains(&value) {
                    return self.visit_u64(value as u64);
                }
                Err(E::invalid_value(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(DimensionsVisitor)
    }
}

impl<'de> Deserialize<'de> for PoolingName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for PaddingName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}
