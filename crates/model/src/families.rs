//! Families of synthetic long filters: how smooth a filter's taps are.
//!
//! The published models' training code starts a filter's weights small (a standard deviation of 0.02) and its positional
//! features at exact sinusoids, and trains the latter at a rate of 1e-5. So a trained filter is expected to be smooth over a
//! good share of the model's length, with a little noise: like [`FilterFamily::Smooth`]. That could not be checked.

use std::fmt;
use std::str::FromStr;

/// How smooth the long filters of a synthetic model are. The correlation of taps is that of one filter's taps 1, 8 and 32
/// positions apart, at a length of 2,048.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FilterFamily {
    /// Close to an untrained filter: taps correlate at 0.995, 0.96 and 0.77.
    Init,
    /// What the published models' filters are expected to be like: 0.99, 0.8 and 0.1.
    Smooth,
    /// Between smooth and rough: 0.9, 0.3 and 0.
    Mid,
    /// White noise under a decaying window: 0.02, 0 and 0.
    #[default]
    Rough,
}

impl FilterFamily {
    /// All families, from the smoothest to the roughest.
    pub const ALL: [Self; 4] = [Self::Init, Self::Smooth, Self::Mid, Self::Rough];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Smooth => "smooth",
            Self::Mid => "mid",
            Self::Rough => "rough",
        }
    }

    /// What its filters are made of; `None` where they are made as the rest of a synthetic model is.
    pub(crate) fn shape(self) -> Option<Shape> {
        let shape = |weight, noise, positions| Shape { weight, noise, last: 0.002, positions };
        match self {
            Self::Init => Some(shape(0.03, 0.001, 0.1)),
            Self::Smooth => Some(shape(0.05, 0.001, 0.25)),
            Self::Mid => Some(shape(0.07, 0.002, 0.25)),
            Self::Rough => None,
        }
    }
}

/// Standard deviations of what a family's filters are made of, and the scale of its position table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Of the weights of the MLP's second and third layer; the first layer's is three times that.
    pub weight: f64,
    /// Of the noise on the positional features.
    pub noise: f64,
    /// Of the last layer's weights at a length of [`REFERENCE_LENGTH`].
    pub last: f64,
    /// Half the range of the position table's values.
    pub positions: f64,
}

/// The length at which [`Shape::last`] holds. What padding adds to a text is a sum over the length: dividing by the length
/// keeps it as strong at every length.
pub(crate) const REFERENCE_LENGTH: f64 = 2048.0;

impl fmt::Display for FilterFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FilterFamily {
    type Err = FilterFamilyError;

    fn from_str(name: &str) -> Result<Self, FilterFamilyError> {
        let named = Self::ALL.into_iter().find(|family| family.name() == name);
        named.ok_or_else(|| FilterFamilyError { input: name.to_owned() })
    }
}

/// A name that no family of filters has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} is no family of filters: expected init, smooth, mid or rough")]
pub struct FilterFamilyError {
    input: String,
}

/// A factor on the taps of a synthetic model's filters: more of it lets padding change a text's vector more. 4 is a hard case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength(f64);

impl Strength {
    /// The strongest filters that can be asked for.
    pub const MAX: f64 = 1000.0;

    /// A factor of that size.
    ///
    /// # Errors
    /// A factor that is not above 0 and at most [`Strength::MAX`].
    pub fn new(factor: f64) -> Result<Self, StrengthError> {
        if factor > 0.0 && factor <= Self::MAX {
            Ok(Self(factor))
        } else {
            Err(StrengthError { input: factor.to_string() })
        }
    }

    /// The factor.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Strength {
    fn default() -> Self {
        Self(1.0)
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Strength {
    type Err = StrengthError;

    fn from_str(text: &str) -> Result<Self, StrengthError> {
        let error = |_| StrengthError { input: text.to_owned() };
        text.parse().map_err(error).and_then(Self::new)
    }
}

/// A strength that filters cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} is no strength of filters: expected a number above 0, at most {}", Strength::MAX)]
pub struct StrengthError {
    input: String,
}

/// The long filters of a synthetic model. The default is what [`crate::synthetic()`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SyntheticFilters {
    /// How smooth they are.
    pub family: FilterFamily,
    /// How strong they are.
    pub strength: Strength,
}

impl From<FilterFamily> for SyntheticFilters {
    /// Filters of that family at strength 1.
    fn from(family: FilterFamily) -> Self {
        Self { family, strength: Strength::default() }
    }
}
