//! cuBLASLt, where it is installed: what our products are measured against. Nothing is served with it: it chooses its algorithm by
//! the shape, so that a text's bits would depend on its batch.

use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig, sys};

use super::{CudaError, Gpu, GpuBuffer};

/// A handle of the library.
#[derive(Debug)]
pub struct LibraryGemm(CudaBlasLT);

/// `c [m, n] = a b`, in half precision; `batch` times, steps apart in elements.
#[derive(Debug, Clone, Copy)]
pub struct LibraryProduct {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Whether a is stored `[k, m]` instead of `[m, k]`.
    pub a_transposed: bool,
    /// Whether b is stored `[n, k]` instead of `[k, n]`.
    pub b_transposed: bool,
    /// Distances of rows of a, b and c.
    pub strides: [usize; 3],
    /// Products.
    pub batch: usize,
    /// Distances of products' a, b and c.
    pub steps: [usize; 3],
}

impl LibraryGemm {
    /// Looks for the library.
    ///
    /// # Errors
    /// [`CudaError::Absent`] where it is not installed, or its error.
    pub fn new(gpu: &Gpu) -> Result<Self, CudaError> {
        // SAFETY: loads the library, as any program that uses it does.
        if unsafe { !sys::is_culib_present() } {
            return Err(CudaError::Absent("cuBLASLt is not installed".to_owned()));
        }
        let failed = |error| CudaError::Failed(format!("opening cuBLASLt: {error:?}"));
        CudaBlasLT::new(gpu.stream.clone()).map(Self).map_err(failed)
    }

    /// Starts a product.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn multiply(
        &self,
        product: &LibraryProduct,
        [a, b]: [&GpuBuffer; 2],
        c: &mut GpuBuffer,
    ) -> Result<(), CudaError> {
        let &LibraryProduct { m, n, k, a_transposed, b_transposed, strides, batch, steps } = product;
        let rows = [if a_transposed { k } else { m }, if b_transposed { n } else { k }, m];
        let widths = [if a_transposed { m } else { k }, if b_transposed { k } else { n }, n];
        let buffers = [a, b, &*c];
        for operand in 0..3 {
            let before = (batch - 1) * steps[operand] + (rows[operand] - 1) * strides[operand];
            assert!(
                (before + widths[operand]) * 2 <= buffers[operand].bytes(),
                "an operand of the library's product"
            );
        }
        // The library's matrices are column-major: ours are their transposes, and so are the factors.
        let config = MatmulConfig {
            transa: b_transposed,
            transb: a_transposed,
            transc: false,
            m: n as u64,
            n: m as u64,
            k: k as u64,
            alpha: 1.0,
            beta: 0.0,
            lda: strides[1] as i64,
            ldb: strides[0] as i64,
            ldc: strides[2] as i64,
            stride_a: Some(steps[1] as i64),
            stride_b: Some(steps[0] as i64),
            stride_c: Some(steps[2] as i64),
            stride_bias: None,
            batch_size: Some(batch as i32),
        };
        let failed = |error| CudaError::Failed(format!("a product of cuBLASLt: {error:?}"));
        // SAFETY: sizes were checked above.
        unsafe {
            let (a, b, mut c) = (a.halves(), b.halves(), c.halves_mut());
            Matmul::<half::f16>::matmul(&self.0, config, &b, &a, &mut c, None, None).map_err(failed)
        }
    }
}
