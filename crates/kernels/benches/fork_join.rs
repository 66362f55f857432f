//! What a parallel region costs: handing tasks to threads and waiting for them.

mod common;

use common::CASE_TIME;
use danaus_kernels::Compute;
use danaus_simd::Isa;
use divan::Bencher;

fn main() {
    divan::main();
}

/// As many threads as the process may use.
fn compute() -> Compute {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Compute::new(Isa::best(), threads).expect("threads")
}

/// One empty task a thread, one region right after the other.
#[divan::bench(max_time = CASE_TIME)]
fn a_task_a_thread(bencher: Bencher<'_, '_>) {
    let compute = compute();
    compute.enter(|| bencher.bench_local(|| compute.for_each(compute.threads(), |_| {})));
}

/// As above, from a thread that has not taken its turn for a whole pass.
#[divan::bench(max_time = CASE_TIME)]
fn from_outside(bencher: Bencher<'_, '_>) {
    let compute = compute();
    bencher.bench_local(|| compute.for_each(compute.threads(), |_| {}));
}

/// Many more tasks than threads.
#[divan::bench(max_time = CASE_TIME)]
fn tasks_64(bencher: Bencher<'_, '_>) {
    let compute = compute();
    compute.enter(|| bencher.bench_local(|| compute.for_each(64, |_| {})));
}
