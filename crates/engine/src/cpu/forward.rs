//! The forward pass of Monarch Mixer's encoder: Fu et al., "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based
//! Architecture" (2023). Texts are packed end to end; only the convolutions look across tokens, and those stay within a
//! text.

use danaus_kernels::MatrixMut;

use super::filters::FilterPlan;
use super::team::Team;
use super::workspace::Workspace;
use super::{CpuBackend, Pass, Watch, filter_lengths};
use crate::profile::Stage;

/// Steps that a layer takes: the one that mixes tokens, and the one that mixes channels.
pub(crate) const STEPS_PER_LAYER: usize = 2;

/// A pass between two steps: what has been computed is in a workspace.
pub(super) struct Running<'a> {
    pass: &'a Pass,
    plan: FilterPlan,
    next_step: usize,
}

impl CpuBackend {
    /// Leaves the last hidden states `[tokens, H]` in the workspace.
    pub(super) fn forward(&self, pass: &Pass, workspace: &mut Workspace, watch: &mut Watch<'_>) {
        let mut running = self.begin(pass, workspace, watch);
        while self.step(&mut running, workspace, watch) {}
    }

    /// Leaves the first layer's input in the workspace.
    pub(super) fn begin<'a>(
        &self,
        pass: &'a Pass,
        workspace: &mut Workspace,
        watch: &mut Watch<'_>,
    ) -> Running<'a> {
        workspace.prepare(pass.ids.len(), self.config.hidden_size, self.compute.threads());
        let plan = self.filters.plan(&self.compute, filter_lengths(pass, watch.records));
        self.embed_tokens(pass, workspace);
        watch.observer.stage("embeddings", &workspace.hidden);
        Running { pass, plan, next_step: 0 }
    }

    /// Computes the next step, and returns whether there is another one.
    pub(super) fn step(
        &self,
        running: &mut Running<'_>,
        workspace: &mut Workspace,
        watch: &mut Watch<'_>,
    ) -> bool {
        let Running { pass, plan, next_step } = running;
        let layer = *next_step / STEPS_PER_LAYER;
        // There is no residual connection and no LayerNorm between the two.
        if next_step.is_multiple_of(STEPS_PER_LAYER) {
            self.mix_sequence(layer, pass, plan, workspace, watch);
        } else {
            self.mix_state(&self.weights.layers[layer], workspace, watch.observer);
            watch.observer.stage("layer", &workspace.hidden);
        }
        *next_step += 1;
        *next_step < STEPS_PER_LAYER * self.weights.layers.len()
    }

    /// Sums of token, token-type and position embeddings, normalised.
    fn embed_tokens(&self, pass: &Pass, workspace: &mut Workspace) {
        let (weights, width) = (&self.weights, self.config.hidden_size);
        let team = Team::All(&self.compute);
        let count = team.rows_per_task(pass.ids.len());
        let hidden = MatrixMut::new(&mut workspace.hidden, width).split_rows(count);
        let tokens = pass.ids.chunks(count).zip(pass.positions.chunks(count)).zip(hidden);
        team.for_each(tokens.collect(), |((ids, positions), mut hidden): (_, MatrixMut<'_>), _| {
            let mut clock = self.clock();
            let mut position_row = vec![0.0; width];
            for (index, (&id, &position)) in ids.iter().zip(positions).enumerate() {
                let row = hidden.row_mut(index);
                weights.word.copy_row(id as usize, row);
                row.iter_mut().zip(&weights.token_type).for_each(|(x, t)| *x += t);
                if let Some(table) = &weights.position {
                    table.copy_row(position, &mut position_row);
                    row.iter_mut().zip(&position_row).for_each(|(x, p)| *x += p);
                }
            }
            clock.lap(Stage::Embeddings);
        });
        let encoded = workspace.encoded.prepare(self.encoding(1), pass.ids.len());
        self.normalise(team, MatrixMut::new(&mut workspace.hidden, width), &weights.norm, encoded);
    }
}
