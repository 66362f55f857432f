//! OpenAPI schemas of the values that have their own deserialisers.

use danaus_engine::{Padding, Pooling};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{Dimensions, PaddingName, PoolingName, TextInput, TextList};

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

fn list() -> ArrayBuilder {
    ArrayBuilder::new().items(string()).min_items(Some(1))
}

impl PartialSchema for TextList {
    fn schema() -> RefOr<Schema> {
        list()
            .description(Some("At least one text; at most as many as `GET /info` says."))
            .examples([json!(["a first text", "a second"])])
            .into()
    }
}

impl PartialSchema for TextInput {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(string())
            .item(list())
            .description(Some("One text, or a list of at least one; at most as many as `GET /info` says."))
            .into()
    }
}

impl PartialSchema for Dimensions {
    fn schema() -> RefOr<Schema> {
        let integer = SchemaType::Type(Type::Integer);
        ObjectBuilder::new()
            .schema_type(integer)
            .minimum(Some(1))
            .description(Some(
                "Keep only the first components of each vector. Default, and maximum: the model's dimension.",
            ))
            .into()
    }
}

impl PartialSchema for PoolingName {
    fn schema() -> RefOr<Schema> {
        string()
            .enum_values(Some(Pooling::names()))
            .description(Some("How hidden states become one vector. Default: the server's `--pooling`."))
            .into()
    }
}

impl PartialSchema for PaddingName {
    fn schema() -> RefOr<Schema> {
        string()
            .enum_values(Some(Padding::names()))
            .description(Some(
                "What surrounds a text in the encoder, which changes its vector: never mix them in one index. Default: the \
                 server's `--padding`.",
            ))
            .into()
    }
}

impl ToSchema for TextInput {
    fn name() -> std::borrow::Cow<'static, str> {
        "TextInput".into()
    }
}

impl ToSchema for TextList {}
impl ToSchema for Dimensions {}
impl ToSchema for PoolingName {}
impl ToSchema for PaddingName {}
