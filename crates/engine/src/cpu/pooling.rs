//! One vector from a text's hidden states.

use danaus_kernels::gemm::{Activations, Epilogue, multiply};
use danaus_kernels::{Matrix, MatrixMut, mean_rows};

use super::CpuBackend;
use crate::Pooling;
use crate::gpu::Pooled;

impl CpuBackend {
    /// Pools a text's hidden states `[tokens, H]` (its padding left out) into one vector `[H]`, not normalised.
    pub(super) fn pool(&self, hidden: &[f32], pooling: Pooling) -> Vec<f32> {
        let vector = match self.pooled_from(pooling) {
            Pooled::Mean => self.mean(hidden),
            Pooled::First => hidden[..self.config.hidden_size].to_vec(),
        };
        self.after_pooling(vector, pooling)
    }

    /// The vector of a text's hidden states that a pooling begins with.
    pub(crate) fn pooled_from(&self, pooling: Pooling) -> Pooled {
        match pooling {
            Pooling::Mean => Pooled::Mean,
            Pooling::Cls => Pooled::First,
            // The model's own `sentence_embedding`.
            Pooling::Model if self.config.use_cls_token => Pooled::First,
            Pooling::Model if self.config.pool_all => Pooled::Mean,
            Pooling::Model => Pooled::First,
        }
    }

    /// What a pooling makes of that vector.
    pub(crate) fn after_pooling(&self, vector: Vec<f32>, pooling: Pooling) -> Vec<f32> {
        match pooling {
            Pooling::Model if !self.config.use_cls_token => self.pooler(&vector),
            _ => vector,
        }
    }

    fn mean(&self, hidden: &[f32]) -> Vec<f32> {
        let width = self.config.hidden_size;
        let mut out = vec![0.0; width];
        mean_rows(self.compute.isa(), Matrix::new(hidden, width), &mut out);
        out
    }

    /// `tanh(dense(x))`
    fn pooler(&self, x: &[f32]) -> Vec<f32> {
        let (pooler, width) = (&self.weights.pooler, x.len());
        let mut out = vec![0.0; width];
        let input = Activations::plain(Matrix::new(x, width));
        let epilogue = Epilogue::Bias(&pooler.bias);
        multiply(&pooler.weight, input, MatrixMut::new(&mut out, width), epilogue);
        out.iter_mut().for_each(|x| *x = x.tanh());
        out
    }
}
