//! That tests run on every instruction set that they should: on a machine that lacks one, tests "on every instruction set"
//! would else pass without it.

use danaus_simd::Isa;

/// `DANAUS_TEST_ISAS` lists what whoever runs the tests knows the CPU to have: see `.ci/run`.
#[test]
fn every_required_instruction_set_is_available() {
    let required = std::env::var("DANAUS_TEST_ISAS").unwrap_or_default();
    for name in required.split(',').filter(|name| !name.is_empty()) {
        if let Err(error) = Isa::by_name(name) {
            panic!("DANAUS_TEST_ISAS={required}: {error}");
        }
    }
}
