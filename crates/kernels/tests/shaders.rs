//! Every shader is valid, can be translated for Metal, Vulkan and DirectX 12, and stays within what their devices have.
#![cfg(feature = "wgpu")]

use danaus_kernels::wgpu::{Storage, all_shaders};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

/// Workgroup memory that WebGPU promises, and that Metal has.
const WORKGROUP_BYTES: [u32; 2] = [16 << 10, 32 << 10];

fn parsed(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16);
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    (module, info)
}

fn for_each(mut check: impl FnMut(&str, u32, &Module, &ModuleInfo)) {
    for storage in [Storage::F32, Storage::F16] {
        for bytes in WORKGROUP_BYTES {
            let shaders = all_shaders(storage, bytes);
            assert!(shaders.len() > 30);
            for (name, source) in shaders {
                let (module, info) = parsed(&name, &source);
                check(&format!("{name}, {}", storage.name()), bytes, &module, &info);
            }
        }
    }
}

#[test]
fn shaders_stay_within_every_devices_limits() {
    for_each(|name, bytes, module, _| {
        let [entry] = &module.entry_points[..] else { panic!("{name}: one entry point") };
        let invocations: u32 = entry.workgroup_size.iter().product();
        assert!((64..=256).contains(&invocations), "{name}: {invocations} invocations");
        let (mut shared, mut buffers) = (0, 0);
        for (_, variable) in module.global_variables.iter() {
            match variable.space {
                AddressSpace::WorkGroup => {
                    shared += module.types[variable.ty].inner.size(module.to_ctx());
                }
                AddressSpace::Storage { .. } => buffers += 1,
                _ => {}
            }
        }
        assert!(shared <= bytes, "{name}: {shared} bytes of workgroup memory");
        assert!(buffers <= 8, "{name}: {buffers} storage buffers");
    });
}

#[test]
fn shaders_can_be_translated_for_metal() {
    for_each(|name, _, module, info| {
        let options = naga::back::msl::Options {
            lang_version: (2, 4),
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        let translated = naga::back::msl::write_string(module, info, &options, &Default::default());
        let (text, _) = translated.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("kernel void"), "{name}");
    });
}

#[test]
fn shaders_can_be_translated_for_vulkan() {
    for_each(|name, _, module, info| {
        let options = naga::back::spv::Options::default();
        let words = naga::back::spv::write_vec(module, info, &options, None);
        assert!(!words.unwrap_or_else(|error| panic!("{name}: {error}")).is_empty());
    });
}

#[test]
fn shaders_can_be_translated_for_directx() {
    for_each(|name, _, module, info| {
        let options = naga::back::hlsl::Options {
            shader_model: naga::back::hlsl::ShaderModel::V6_2,
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        let mut text = String::new();
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        let written = naga::back::hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None);
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("numthreads"), "{name}");
    });
}
