//! `danaus download`

use anyhow::bail;
use danaus_model::ModelSource;
use danaus_model::hub::{self, Verified};

use crate::args::DownloadArgs;
use crate::stdout;

/// Downloads what the cache lacks, checks what it has against the hub's hashes, and prints where it lies.
pub fn run(args: DownloadArgs) -> anyhow::Result<()> {
    let options = args.model.load_options();
    let ModelSource::Hub(id) = &options.source else {
        bail!("{} is no hub model: there is nothing to download", options.source);
    };
    let mut snapshot = hub::fetch(id, options.revision.as_deref(), &options.hub)?;
    let check =
        |snapshot: &hub::Snapshot| [&snapshot.config, &snapshot.checkpoint].map(|file| hub::verify(file));
    if let Some(error) = check(&snapshot).into_iter().find_map(Result::err) {
        tracing::warn!("{error}; downloading it again");
        snapshot = hub::fetch(id, options.revision.as_deref(), &options.hub)?;
    }
    for (file, verified) in [&snapshot.config, &snapshot.checkpoint].into_iter().zip(check(&snapshot)) {
        let verified = match verified? {
            Verified::Content => "content verified",
            Verified::Unknown => "content not verified: the hub gave no hash for it",
        };
        stdout::print(format_args!("{} ({verified})", file.display()))?;
    }
    stdout::print(format_args!("{} at commit {}", snapshot.id, snapshot.commit))
}
