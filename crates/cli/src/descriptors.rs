//! File descriptors: each connection takes one.

/// Descriptors beside those of the connections that are served: those that are being refused (64), the model's files, the
/// runtime's own.
#[cfg(unix)]
const OTHERS: u64 = 128;

/// Lets the process open as many files as `connections` need, and says how many connections it has room for.
#[cfg(unix)]
pub fn room_for(connections: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(mut most) = current.filter(|&current| current < wanted) else { return connections };
    let raised = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if raised > most && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
        most = raised;
    }
    if most >= wanted {
        return connections;
    }
    let room = usize::try_from(most.saturating_sub(OTHERS)).unwrap_or(usize::MAX).max(1);
    tracing::warn!(
        open_files = most,
        max_connections = room,
        "fewer connections than --max-connections: the system lets this process open no more files (ulimit -n)"
    );
    room
}

/// Elsewhere there is no such limit to raise.
#[cfg(not(unix))]
pub fn room_for(connections: usize) -> usize {
    connections
}
