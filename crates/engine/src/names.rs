//! Choices that users name: one table of names for each, read in both directions.

use std::fmt;

/// A choice with a name for each of its values.
pub(crate) trait Named: Copy + PartialEq + 'static {
    /// What is chosen, for messages.
    const WHAT: &'static str;
    /// Every value under its name.
    const TABLE: &'static [(&'static str, Self)];
}

/// The value of that name; otherwise a message that lists the names.
pub(crate) fn parse<T: Named>(name: &str) -> Result<T, String> {
    let found = T::TABLE.iter().find(|(known, _)| *known == name);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = T::TABLE.iter().map(|&(known, _)| known).collect();
        format!("unknown {} {name:?}: expected one of {}", T::WHAT, names.join(", "))
    })
}

/// Writes the name of `value`.
pub(crate) fn write<T: Named>(value: T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = T::TABLE.iter().find(|(_, known)| *known == value).map_or("", |&(name, _)| name);
    f.write_str(name)
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use super::Named;
    use crate::{Dtype, Padding, Pooling};

    fn round_trips<T: Named + Debug + Display + FromStr<Err = String>>(all: &[T]) {
        assert_eq!(
            T::TABLE.iter().map(|&(_, value)| value).collect::<Vec<_>>(),
            all,
            "every value has a name"
        );
        for (name, value) in T::TABLE {
            assert_eq!(name.parse::<T>().as_ref(), Ok(value));
            assert_eq!(value.to_string(), *name);
        }
    }

    #[test]
    fn names_read_in_both_directions() {
        round_trips(&[Dtype::Auto, Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Int8]);
        round_trips(&[Pooling::Mean, Pooling::Cls, Pooling::Model]);
        round_trips(&[Padding::None, Padding::MaxLength, Padding::Fast]);
        let message = "max".parse::<Pooling>().unwrap_err();
        assert_eq!(message, "unknown pooling \"max\": expected one of mean, cls, model");
    }
}
