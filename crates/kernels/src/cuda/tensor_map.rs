//! How Hopper's copy engine sees a matrix.

use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::CudaError;

/// Elements of a box's row: 128 bytes, which is what the tensor cores' layout permutes.
const BOX_WIDTH: u32 = 64;

/// A matrix in half precision, of which boxes are copied to shared memory: what is outside of it is zero.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct TensorMap([u64; 16]);

impl TensorMap {
    /// A matrix of `rows` rows of `width` elements, `stride` elements apart, in boxes of `box_rows` rows of 64.
    ///
    /// # Errors
    /// The driver's, which does not take such a matrix.
    pub fn new(
        address: u64,
        [width, rows]: [usize; 2],
        stride: usize,
        box_rows: usize,
    ) -> Result<Self, CudaError> {
        let (sizes, strides) = ([width as u64, rows as u64], [2 * stride as u64]);
        let (boxes, steps) = ([BOX_WIDTH, box_rows as u32], [1u32; 2]);
        let mut map = MaybeUninit::<sys::CUtensorMap>::zeroed();
        // SAFETY: all arrays have as many elements as the matrix has dimensions, and outlive the call, which writes the map.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2,
                address as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        result.result().map_err(|error| CudaError::driver("describing a matrix to the GPU", error))?;
        const { assert!(size_of::<sys::CUtensorMap>() == size_of::<TensorMap>()) };
        // SAFETY: both are 128 bytes, all of which were zeroed and then written by the driver.
        Ok(unsafe { std::mem::transmute::<sys::CUtensorMap, Self>(map.assume_init()) })
    }
}
