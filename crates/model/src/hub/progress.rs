//! Telling the user how a download goes, and whether it goes at all.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// When something last arrived, and how many bytes have in all. Shared by the thread that downloads and the one that
/// waits for it.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<(Instant, u64)>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new((Instant::now(), 0)) }
    }

    /// Notes that the other side is alive: it answered, and sent so many bytes.
    pub(super) fn note(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *state = (Instant::now(), state.1 + bytes);
    }

    /// Time since something last arrived.
    pub(super) fn idle(&self) -> Duration {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0.elapsed()
    }

    /// Bytes that have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).1
    }
}

/// Reports one file's download: a bar on a terminal, a log line every few seconds elsewhere.
pub(super) struct Report {
    activity: Arc<Activity>,
    bar: Option<ProgressBar>,
    file: String,
    size: u64,
    position: u64,
    /// Whether the position where the download starts or resumes is known: the first update gives it.
    started: bool,
    logged: Instant,
}

/// Time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

impl Report {
    pub(super) fn new(file: &str, activity: &Arc<Activity>, bar: bool) -> Self {
        Self {
            activity: Arc::clone(activity),
            bar: bar.then(|| ProgressBar::new(0)),
            file: file.to_owned(),
            size: 0,
            position: 0,
            started: false,
            logged: Instant::now(),
        }
    }

    fn style() -> ProgressStyle {
        ProgressStyle::with_template(
            "{msg} [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Progress for Report {
    fn init(&mut self, size: usize, _: &str) {
        self.size = size as u64;
        self.started = false;
        if let Some(bar) = &self.bar {
            bar.set_length(self.size);
            bar.set_style(Self::style());
            bar.set_message(self.file.clone());
        }
    }

    fn update(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if self.started {
            self.position += bytes;
            self.activity.note(bytes);
        } else {
            self.started = true;
            self.position = bytes;
            self.activity.note(0);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.position);
        } else if self.logged.elapsed() >= LOG_INTERVAL {
            self.logged = Instant::now();
            tracing::info!(
                "downloading {}: {} of {}",
                self.file,
                HumanBytes(self.position),
                HumanBytes(self.size)
            );
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        tracing::debug!("downloaded {}: {}", self.file, HumanBytes(self.size));
    }
}
