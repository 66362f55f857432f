//! Parallel regions: complete, exclusive and free of deadlock, whoever opens them from wherever.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use danaus_kernels::Compute;
use danaus_simd::Isa;

fn compute(threads: usize) -> Compute {
    Compute::new(Isa::best(), threads).unwrap()
}

/// Runs a region of `count` tasks and checks that each ran once and that no two ran on one worker at a time.
fn checked_region(compute: &Compute, count: usize) {
    let runs: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let busy: Vec<_> = (0..compute.threads()).map(|_| AtomicBool::new(false)).collect();
    compute.for_each_item((0..count).collect(), |index, worker| {
        assert!(!busy[worker].swap(true, Ordering::SeqCst), "two tasks on worker {worker}");
        runs[index].fetch_add(1, Ordering::Relaxed);
        busy[worker].store(false, Ordering::SeqCst);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{count} tasks");
}

#[test]
fn every_task_runs_once_however_many_there_are() {
    for threads in [0, 1, 2, 3, 8] {
        let compute = compute(threads);
        assert_eq!(compute.threads(), threads.max(1));
        for count in [0, 1, 2, 3, 7, 8, 9, 1_000] {
            checked_region(&compute, count);
        }
    }
}

/// Tasks write to what the caller owns; the caller reads it right after, a hundred thousand times over.
#[test]
fn what_tasks_write_is_there_when_a_region_ends() {
    let compute = compute(3);
    let end = Instant::now() + Duration::from_secs(4);
    compute.enter(|| {
        for round in 1..=100_000 {
            let mut values = [0; 5];
            let items: Vec<_> = values.iter_mut().enumerate().collect();
            compute.for_each_item(items, |(index, value), _| *value = round + index);
            assert_eq!(values, [round, round + 1, round + 2, round + 3, round + 4]);
            if round % 64 == 0 && Instant::now() > end {
                break;
            }
        }
    });
}

/// Gaps around the time that workers spin before they sleep.
#[test]
fn workers_that_are_about_to_sleep_lose_no_region() {
    let compute = compute(4);
    for round in 0..1_500u64 {
        let gap = Duration::from_nanos(round * 7_919 % 120_000);
        let start = Instant::now();
        while start.elapsed() < gap {
            std::hint::spin_loop();
        }
        checked_region(&compute, 6);
    }
}

/// A region ends without the workers if it must, so only tasks that wait for each other show that all are woken.
#[test]
fn no_worker_sleeps_through_a_region() {
    let compute = compute(3);
    for round in 0..600u64 {
        let gap = Duration::from_nanos(round * 7_919 % 160_000);
        let start = Instant::now();
        while start.elapsed() < gap {
            std::hint::spin_loop();
        }
        let arrived = AtomicUsize::new(0);
        compute.for_each(3, |_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let start = Instant::now();
            while arrived.load(Ordering::SeqCst) < 3 {
                assert!(start.elapsed() < Duration::from_secs(30), "a worker never came in round {round}");
                thread::yield_now();
            }
        });
    }
}

#[test]
fn all_threads_take_part() {
    let compute = compute(3);
    let arrived = AtomicUsize::new(0);
    let names = Mutex::new(Vec::new());
    compute.for_each_item(vec![(); 3], |(), worker| {
        names.lock().unwrap().push((worker, thread::current().name().map(str::to_owned)));
        arrived.fetch_add(1, Ordering::SeqCst);
        let start = Instant::now();
        while arrived.load(Ordering::SeqCst) < 3 {
            assert!(start.elapsed() < Duration::from_secs(30), "a worker never came");
            thread::yield_now();
        }
    });
    let mut names = names.into_inner().unwrap();
    names.sort();
    let names: Vec<_> = names.into_iter().map(|(_, name)| name.unwrap()).collect();
    assert_eq!(names[1..], ["danaus-compute-1", "danaus-compute-2"]);
}

#[test]
fn regions_nest_in_passes_and_in_tasks() {
    let compute = compute(3);
    let runs = AtomicUsize::new(0);
    let result = compute.enter(|| {
        compute.enter(|| {
            compute.for_each(5, |_| {
                compute.enter(|| compute.for_each(4, |_| _ = runs.fetch_add(1, Ordering::Relaxed)));
                compute.for_each_item(vec![1, 2], |more, _| _ = runs.fetch_add(more, Ordering::Relaxed));
            });
            "done"
        })
    });
    assert_eq!((result, runs.into_inner()), ("done", 35));
}

#[test]
fn a_task_of_one_pool_may_use_another() {
    let (outer, inner) = (compute(2), compute(2));
    let runs = AtomicUsize::new(0);
    outer.for_each(6, |_| {
        inner.for_each(3, |_| _ = runs.fetch_add(1, Ordering::Relaxed));
    });
    assert_eq!(runs.into_inner(), 18);
}

/// Passes take turns as wholes: nobody sees another's regions inside his own.
#[test]
fn passes_of_several_threads_take_turns() {
    let compute = compute(3);
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    compute.enter(|| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        (0..20).for_each(|_| checked_region(&compute, 5));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                    checked_region(&compute, 3);
                }
            });
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
    for threads in [1, 4] {
        let compute = compute(threads);
        for guilty in 0..40 {
            let running = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                compute.for_each(20, |index| {
                    running.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    if index == guilty / 2 {
                        std::panic::panic_any(index);
                    }
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&(guilty / 2)));
            assert_eq!(running.load(Ordering::SeqCst), 0, "a task runs on");
            checked_region(&compute, 10);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| compute.enter(|| panic!("in a pass"))));
        assert!(outcome.is_err());
        checked_region(&compute, 10);
    }
}

/// Several tasks panic in one region with what panics again when it is dropped.
#[test]
fn panics_that_panic_leave_the_pool_usable() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let compute = compute(3);
    for _ in 0..10 {
        let arrived = AtomicUsize::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            compute.for_each(3, |_| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
                std::panic::panic_any(Bomb);
            });
        }));
        std::mem::forget(outcome.unwrap_err().downcast::<Bomb>().unwrap_or_else(|_| panic!("another panic")));
        checked_region(&compute, 10);
    }
}

#[test]
fn dropping_a_pool_ends_its_threads_asleep_or_awake() {
    for round in 0..60 {
        let compute = compute(3);
        if round % 3 > 0 {
            checked_region(&compute, 4);
        }
        if round % 3 > 1 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// An idle pool uses no processor time.
#[cfg(target_os = "linux")]
#[test]
fn idle_threads_sleep() {
    let ticks = || -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let ours = tasks.filter(|task| {
            // A thread of another test may end in between.
            std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("idle-compute"))
        });
        let of = |task: std::path::PathBuf| -> u64 {
            let stat = std::fs::read_to_string(task.join("stat")).unwrap();
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        ours.map(of).sum()
    };
    let compute = compute(4);
    // Other tests' pools have threads of the same name: these rename themselves.
    let arrived = AtomicUsize::new(0);
    compute.for_each(4, |_| {
        std::fs::write("/proc/thread-self/comm", "idle-compute").unwrap();
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 4 {
            thread::yield_now();
        }
    });
    thread::sleep(Duration::from_millis(50));
    let before = ticks();
    thread::sleep(Duration::from_millis(500));
    let used = ticks() - before;
    assert!(used <= 1, "{used} ticks in half a second of idling");
}
