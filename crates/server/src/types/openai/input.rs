//! The field `input`: texts, or token ids.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde_json::{Value, json};
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::types::{OneOrMany, TextInput};

/// What to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EmbeddingsInput {
    Texts(TextInput),
    Tokens(TokenLists),
}

/// Texts as token ids.
pub(crate) type TokenLists = OneOrMany<Vec<u32>>;

impl<'de> Deserialize<'de> for EmbeddingsInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = EmbeddingsInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<EmbeddingsInput, E> {
                self.visit_string(text.to_owned())
            }
            fn visit_string<E: Error>(self, text: String) -> Result<EmbeddingsInput, E> {
                Ok(EmbeddingsInput::Texts(TextInput::One(text)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EmbeddingsInput, A::Error> {
                use EmbeddingsInput::{Texts, Tokens};
                match list.next_element()? {
                    None => Ok(Texts(TextInput::Many(Vec::new()))),
                    Some(Element::Text(text)) => collect(vec![text], list).map(TextInput::Many).map(Texts),
                    Some(Element::Token(id)) => collect(vec![id], list).map(TokenLists::One).map(Tokens),
                    Some(Element::Tokens(ids)) => collect(vec![ids], list).map(TokenLists::Many).map(Tokens),
                }
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
}

/// The list's first element, which says what the others must be.
enum Element {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                self.visit_string(text.to_owned())
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
                Ok(Element::Text(text))
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
                let id = u32::try_from(id).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))?;
                Ok(Element::Token(id))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Element, A::Error> {
                collect(Vec::new(), list).map(Element::Tokens)
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

fn collect<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut elements: Vec<T>,
    mut list: A,
) -> Result<Vec<T>, A::Error> {
    while let Some(element) = list.next_element()? {
        elements.push(element);
    }
    Ok(elements)
}

/// Texts only: see [`with_token_ids`].
impl PartialSchema for EmbeddingsInput {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(TextInput::schema())
            .description(Some("One text, or a list of at least one; at most as many as `GET /info` says."))
            .into()
    }
}

impl ToSchema for EmbeddingsInput {}

/// Adds token ids to the schema of [`EmbeddingsInput`].
pub(crate) fn with_token_ids(schema: &mut Value) {
    let tokens = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}});
    let lists = json!({"type": "array", "minItems": 1, "items": &tokens});
    if let Some(forms) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        forms.extend([tokens, lists]);
    }
}
