//! Launches that were recorded once, to be started again by one call.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::{CudaError, Gpu};

/// A recorded sequence of launches. The buffers that they use must be there, and in their places, when it is started.
pub struct Graph(CudaGraph);

// SAFETY: a graph may be used by any thread, by one at a time; starting it takes `&mut self`.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

impl Gpu {
    /// Records what `launches` starts, which must not allocate, copy or wait. Nothing of it runs.
    ///
    /// # Errors
    /// The driver's, or that of `launches`.
    pub fn record_graph(&self, launches: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let error = |error| CudaError::driver("recording a graph", error);
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(error)?;
        let launched = launches();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(error);
        launched?;
        graph?.map(Graph).ok_or_else(|| CudaError::Failed("recording a graph: it is empty".to_owned()))
    }
}

impl Graph {
    /// Starts it.
    ///
    /// # Errors
    /// The driver's.
    pub fn start(&mut self) -> Result<(), CudaError> {
        self.0.launch().map_err(|error| CudaError::driver("starting a graph", error))
    }
}
