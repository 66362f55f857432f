//! The compiled kernels, and functions of them by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::CudaError;

/// Modules in PTX, by name.
macro_rules! modules {
    ($($name:literal)*) => {
        const SOURCES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../cuda/ptx/", $name, ".ptx")))),*];
    };
}

modules! {
    "filters" "gemm_f32" "gemm_half" "gemm_sm90" "gemm_sm90_gated" "gemm_sm90_large" "long_conv_direct" "rows" "short_conv"
    "long_conv_64" "long_conv_128" "long_conv_256" "long_conv_512" "long_conv_1024" "long_conv_2048" "long_conv_4096"
    "long_conv_8192" "long_conv_16384" "long_conv_32768"
}

/// Modules that the driver has compiled, and their functions.
#[derive(Debug)]
pub(super) struct Modules {
    context: Arc<CudaContext>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    /// With the shared memory that each may use beyond what it declares.
    functions: HashMap<(&'static str, &'static str), (CudaFunction, usize)>,
}

impl Modules {
    pub fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), loaded: Mutex::default() }
    }

    /// A function of a module, which may use so much shared memory beyond what it declares.
    ///
    /// # Errors
    /// The driver's, which does not take the module.
    pub fn function(
        &self,
        module: &'static str,
        name: &'static str,
        shared: usize,
    ) -> Result<CudaFunction, CudaError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = loaded.functions.get(&(module, name));
        if let Some((function, _)) = known.filter(|(_, allowed)| *allowed >= shared) {
            return Ok(function.clone());
        }
        let error = |error| CudaError::driver(&format!("loading kernel {name} of {module}"), error);
        let compiled = match loaded.modules.get(module) {
            Some(compiled) => Arc::clone(compiled),
            None => {
                let source = SOURCES.iter().find(|(known, _)| *known == module);
                let (_, source) = source.expect("modules are named where they are listed");
                let compiled = self.context.load_module(Ptx::from_src(*source)).map_err(error)?;
                loaded.modules.insert(module, Arc::clone(&compiled));
                compiled
            }
        };
        let function = compiled.load_function(name).map_err(error)?;
        if shared > 0 {
            let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(error)?;
        }
        loaded.functions.insert((module, name), (function.clone(), shared));
        Ok(function)
    }
}
