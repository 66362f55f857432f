//! Whether there is a Metal, Vulkan or DirectX 12 device, a program on the CPU included.

use danaus_engine::gpu::wgpu::{Api, list_adapters};

/// Says so where there is none, which fails where `DANAUS_REQUIRE_VULKAN` is set.
pub fn there_is_a_device() -> bool {
    let found = !list_adapters(Api::Any).is_empty();
    if !found {
        assert!(std::env::var_os("DANAUS_REQUIRE_VULKAN").is_none(), "no device was found");
        println!("not tested: no Metal, Vulkan or DirectX 12 device was found");
    }
    found
}

/// Whether the device stores float16.
pub fn has_f16() -> bool {
    list_adapters(Api::Any).iter().any(|adapter| adapter.f16)
}
