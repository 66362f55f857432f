//! Why a model could not be got from the hub, and what can be done about it.

use std::path::PathBuf;

/// Why a model could not be got from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// An id that no repository can have.
    #[error("{id:?} is no hub id: expected owner/name")]
    InvalidId {
        /// The id.
        id: String,
    },
    /// A revision that none can be.
    #[error("{revision:?} is no revision: expected a branch, a tag or a commit")]
    InvalidRevision {
        /// The revision.
        revision: String,
    },
    /// The network must not be used and the cache does not hold the model.
    #[error(
        "{id} (revision {revision}) is not in the cache {}, and HF_HUB_OFFLINE forbids downloading it. {}",
        cache.display(),
        ways_out()
    )]
    Offline {
        /// Hub id.
        id: String,
        /// The revision asked for.
        revision: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub does not answer, or stopped to.
    #[error(
        "cannot download {id} (revision {revision}) from {endpoint}: {reason}. The cache {} does not hold it either. {}",
        cache.display(),
        ways_out()
    )]
    Unreachable {
        /// Hub id.
        id: String,
        /// The revision asked for.
        revision: String,
        /// The address tried.
        endpoint: String,
        /// What happened.
        reason: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub refuses access.
    #[error("{}", describe_refusal(*status, id, *with_token))]
    Refused {
        /// 401 or 403.
        status: u16,
        /// Hub id.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// No such repository.
    #[error("there is no repository {id} at {endpoint} (404): check its spelling")]
    NoRepository {
        /// Hub id.
        id: String,
        /// The address asked.
        endpoint: String,
    },
    /// No such branch, tag or commit.
    #[error("the repository {id} has no revision {revision} (404): expected a branch, a tag or a commit")]
    NoRevision {
        /// Hub id.
        id: String,
        /// The revision asked for.
        revision: String,
    },
    /// The repository lacks a file that a model needs.
    #[error("the repository {id} (commit {commit}) {problem}")]
    NoModel {
        /// Hub id.
        id: String,
        /// The commit.
        commit: String,
        /// What is lacking.
        problem: String,
    },
    /// The server answers something that the hub does not.
    #[error("{endpoint} does not answer as the Hugging Face hub does: {reason}. Check HF_ENDPOINT")]
    Protocol {
        /// The address asked.
        endpoint: String,
        /// What was unexpected.
        reason: String,
    },
    /// A file whose content is not what the hub has. It has been removed from the cache, where that was possible.
    #[error("{} is damaged: {reason}. {remedy}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Expected and found.
        reason: String,
        /// What has been done, and what is to be done.
        remedy: String,
    },
    /// Another process downloads the same file.
    #[error("another process is downloading the same file and holds {}: wait for it to finish", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// A file of the cache cannot be read or written.
    #[error("cannot read or write the cache {}: {error}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

#[cfg(feature = "builtin-model")]
const WITHOUT_DOWNLOAD: &str = "or use the small model that comes with danaus, --model builtin (vectors of two models do not mix: embed \
                                everything with the same one)";
#[cfg(not(feature = "builtin-model"))]
const WITHOUT_DOWNLOAD: &str = "or try danaus without a model's meaning by --model synthetic";

fn ways_out() -> String {
    format!(
        "Ways out: give --model the folder of a model that is on this machine; set HF_ENDPOINT to a mirror that can be reached; \
         run `danaus download` on a machine with a network and copy its cache folder here; {WITHOUT_DOWNLOAD}"
    )
}

fn describe_refusal(status: u16, id: &str, with_token: bool) -> String {
    let what_to_do = match (status, with_token) {
        (403, _) => {
            "the model may be gated: accept its terms on its page, and set HF_TOKEN to a token that may read it"
        }
        (_, true) => {
            "the token may be wrong or expired: set HF_TOKEN to a valid one; the hub answers the same for a repository \
             that does not exist, so check the spelling too"
        }
        (_, false) => {
            "if it is private, set HF_TOKEN to a token that may read it; the hub answers the same for a repository that \
             does not exist, so check the spelling too"
        }
    };
    format!("the hub refuses access to {id} ({status}): {what_to_do}")
}
