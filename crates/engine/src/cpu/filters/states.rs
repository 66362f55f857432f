//! The states that filters are made from: `[positions, words]` for each layer, branch and direction.

use std::ops::ControlFlow;
use std::sync::Arc;

use danaus_kernels::gemm::Precision;
use danaus_kernels::{Compute, Matrix, MatrixMut, filter_length};

use super::{FilterBank, Generator, LayerStates, States, StatesSource, is_long};
use crate::profile::{Clock, Stage};

/// Positions that one task generates states for.
const POSITIONS_PER_TASK: usize = 64;

/// States of long filters, as far as they are there.
enum Found {
    Kept(Arc<States>),
    ToBeKept,
    /// There is no room for them.
    NotKept,
}

impl FilterBank {
    /// The states that filters of `length` taps are made from: kept ones for longer texts, where they fit the budget.
    pub(super) fn states(&self, compute: &Compute, length: usize) -> StatesSource {
        match self.look_up_states(length) {
            Found::Kept(states) => StatesSource::Kept(states),
            Found::NotKept => StatesSource::Generated(length),
            Found::ToBeKept => {
                let layers = 0..self.generators.len();
                let layers = layers.map(|layer| self.layer_states(compute, layer, length)).collect();
                StatesSource::Kept(self.keep_states(length, layers))
            }
        }
    }

    /// Makes the states that [`plan`](FilterBank::plan) will keep for texts of these lengths, layer by layer, where it has none.
    /// Before each layer, `between` is called, and others may compute; where it breaks, nothing is kept.
    pub(in crate::cpu) fn make_states(
        &self,
        compute: &Compute,
        lengths: impl Iterator<Item = usize>,
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let length = lengths.map(filter_length).filter(|&length| is_long(length)).max();
        let Some(length) = length.filter(|&length| matches!(self.look_up_states(length), Found::ToBeKept))
        else {
            return ControlFlow::Continue(());
        };
        let mut layers = Vec::with_capacity(self.generators.len());
        for layer in 0..self.generators.len() {
            between()?;
            layers.push(compute.enter(|| self.layer_states(compute, layer, length)));
        }
        self.keep_states(length, layers);
        ControlFlow::Continue(())
    }

    /// What there is for filters of `length` taps. States that are too short give way, where longer ones are to be kept.
    fn look_up_states(&self, length: usize) -> Found {
        let positions = self.positions(length);
        let mut kept = self.kept();
        let enough = kept.states.as_ref().filter(|states| states.positions >= positions);
        if let (Some(states), true) = (enough, is_long(length)) {
            return Found::Kept(Arc::clone(states));
        }
        let bytes = self.states_bytes(positions) + self.filter_bytes(kept.filters.keys());
        if !is_long(length) || bytes > self.budget {
            return Found::NotKept;
        }
        kept.states = None;
        Found::ToBeKept
    }

    fn layer_states(&self, compute: &Compute, layer: usize, length: usize) -> LayerStates {
        let mut states = LayerStates::default();
        self.generate(compute, layer, length, &mut states);
        states
    }

    fn keep_states(&self, length: usize, layers: Vec<LayerStates>) -> Arc<States> {
        let states = Arc::new(States { positions: self.positions(length), layers });
        self.kept().states = Some(Arc::clone(&states));
        states
    }

    /// Positions that a filter of `length` taps has states for: no more than the model has.
    fn positions(&self, length: usize) -> usize {
        length.min(self.generators.first().map_or(0, |[mixer, _]| mixer.time.len()))
    }

    /// The precision in which filters of `length` taps are made, whatever else a pass computes.
    fn precision(&self, length: usize) -> Precision {
        if is_long(length) { self.precision } else { Precision::F32 }
    }

    /// States of a layer, for filters of `length` taps.
    pub(super) fn generate(&self, compute: &Compute, layer: usize, length: usize, states: &mut LayerStates) {
        let (precision, positions) = (self.precision(length), self.positions(length));
        states.precision = precision;
        let mut tasks = Vec::new();
        let features = self.generators[layer].each_ref().map(|generator| generator.features.values());
        for ((generator, features), states) in
            self.generators[layer].iter().zip(&features).zip(&mut states.states)
        {
            let features = Matrix::new(features, generator.feature_count);
            for (sine, states) in generator.sine.iter().zip(states) {
                let width = precision.words(sine.states());
                states.resize(positions * width);
                let outs = MatrixMut::new(states, width).split_rows(POSITIONS_PER_TASK);
                tasks.extend(outs.into_iter().enumerate().map(|(index, out)| (features, sine, index, out)));
            }
        }
        compute.for_each_item(tasks, |(features, sine, index, out), _| {
            let mut clock = Clock::start(self.profile.as_deref());
            let start = index * POSITIONS_PER_TASK;
            let features = features.slice(start..start + out.rows());
            match precision {
                Precision::F32 => sine.write_states(compute.isa(), features, out.floats()),
                _ => sine.write_bf16_states(compute.isa(), features, out),
            }
            clock.lap(Stage::Filters);
        });
    }

    pub(super) fn states_bytes(&self, positions: usize) -> usize {
        let words = |generator: &Generator| {
            generator.sine.iter().map(|sine| self.precision.words(sine.states())).sum::<usize>()
        };
        4 * positions * self.generators.iter().flatten().map(words).sum::<usize>()
    }
}
