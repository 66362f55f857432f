//! Far fields on the device: many texts share one, so they are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use danaus_kernels::wgpu::{Gpu, GpuBuffer, GpuError};

use crate::padding::FarField;

/// Far fields that are kept, in bytes; the oldest ones give way.
const KEPT_BYTES: usize = 1 << 30;

/// A far field's values `[rows, H]` on the device: by layer, the mixer's and the residual's.
pub(super) type DeviceFarField = Vec<[GpuBuffer; 2]>;

/// Those that were used.
#[derive(Debug, Default)]
pub(super) struct FarFieldBank(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    /// Held, so that no other one comes to lie where it is.
    source: Arc<FarField>,
    device: Arc<DeviceFarField>,
}

impl FarFieldBank {
    /// Gives back what is kept.
    pub fn forget(&self) {
        self.kept().clear();
    }

    /// A far field on the device.
    pub fn get(&self, gpu: &Gpu, source: &Arc<FarField>) -> Result<Arc<DeviceFarField>, GpuError> {
        if let Some(kept) = self.kept().iter().find(|kept| Arc::ptr_eq(&kept.source, source)) {
            return Ok(Arc::clone(&kept.device));
        }
        let branch = |layer, branch| gpu.upload(bytemuck::cast_slice(&source.everywhere(layer, branch)));
        let layers = (0..source.layers()).map(|layer| Ok([branch(layer, 0)?, branch(layer, 1)?]));
        let device = Arc::new(layers.collect::<Result<DeviceFarField, GpuError>>()?);
        let mut kept = self.kept();
        kept.push_back(Kept { source: Arc::clone(source), device: Arc::clone(&device) });
        while kept
            .iter()
            .map(|kept| 2 * kept.source.layers() * kept.source.window() * kept.source.width() * 2)
            .sum::<usize>()
            > KEPT_BYTES
        {
            kept.pop_front();
        }
        Ok(device)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
