//! Who does a piece of work: all threads together, or the one that asks.

use danaus_kernels::Compute;

/// The threads that share the steps of a piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) enum Team<'a> {
    /// The calling thread, by its number: others are busy with pieces of their own.
    One(usize),
    /// All threads.
    All(&'a Compute),
}

/// The fewest rows that are worth another thread's while.
const FEWEST_ROWS: usize = 8;

impl Team<'_> {
    /// Gives each of `items` to one call of `task`, with the number of the thread that makes it.
    pub fn for_each<T: Send>(self, items: Vec<T>, task: impl Fn(T, usize) + Sync) {
        match self {
            Team::One(worker) => items.into_iter().for_each(|item| task(item, worker)),
            Team::All(compute) => compute.for_each_item(items, task),
        }
    }

    /// Rows that one task takes of `rows` that need the same work.
    pub fn rows_per_task(self, rows: usize) -> usize {
        match self {
            Team::One(_) => rows.max(1),
            Team::All(compute) => rows.div_ceil(compute.threads()).max(FEWEST_ROWS),
        }
    }
}

/// What `make` makes of each of `items`, on all threads.
pub(super) fn map<T: Sync, R: Send>(compute: &Compute, items: &[T], make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let slots = items.iter().zip(&mut results).collect();
    compute.for_each_item(slots, |(item, slot): (&T, &mut Option<R>), _| *slot = Some(make(item)));
    results.into_iter().flatten().collect()
}
