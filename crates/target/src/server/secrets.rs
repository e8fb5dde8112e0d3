//! CHAP accounts as files: a directory with one file a key, as Kubernetes mounts a Secret of the type
//! `kubernetes.io/iscsi-chap`. So secrets stand in no command line, no environment and no configuration.
//!
//! | file | whose | for |
//! |---|---|---|
//! | `node.session.auth.username`, `.password` | the initiator's | sessions with targets |
//! | `node.session.auth.username_in`, `.password_in` | the target's (mutual CHAP) | the same |
//! | `discovery.sendtargets.auth.username`, ... `_in` | both | discovery sessions |
//!
//! The names are those of open-iscsi's configuration. A line feed at the end of a file does not count.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::iscsi::login::{ChapAccount, Credentials, CredentialsError};

const SESSION: &str = "node.session.auth";
const DISCOVERY: &str = "discovery.sendtargets.auth";

/// The accounts of a target process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// For sessions with targets.
    pub session: Arc<ChapAccount>,
    /// For discovery sessions; without it everybody may ask which targets there are.
    pub discovery: Option<Arc<ChapAccount>>,
}

/// Why a directory gives no accounts.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name without a secret, the other way round, or no account at all.
    #[error("{}: the file is missing; a CHAP account needs a username and a password", .0.display())]
    Missing(PathBuf),
    /// Names and secrets are text here, because initiators take them so.
    #[error("{}: not text", .0.display())]
    Text(PathBuf),
    /// The account cannot be used.
    #[error("{}: {source}", directory.display())]
    Credentials {
        /// Where.
        directory: PathBuf,
        /// Why.
        source: CredentialsError,
    },
}

/// Reads a directory. The account for sessions must be there: whoever names a directory wants nobody let in without.
pub fn read_accounts(directory: &Path) -> Result<Accounts, SecretsError> {
    let session = account(directory, SESSION)?;
    let session = session.ok_or_else(|| SecretsError::Missing(directory.join(format!("{SESSION}.username"))))?;
    Ok(Accounts { session, discovery: account(directory, DISCOVERY)? })
}

fn account(directory: &Path, prefix: &str) -> Result<Option<Arc<ChapAccount>>, SecretsError> {
    let Some(initiator) = credentials(directory, prefix, "")? else { return Ok(None) };
    let target = credentials(directory, prefix, "_in")?;
    let unusable = |source| SecretsError::Credentials { directory: directory.to_owned(), source };
    ChapAccount::new(initiator, target).map(|account| Some(Arc::new(account))).map_err(unusable)
}

fn credentials(directory: &Path, prefix: &str, side: &str) -> Result<Option<Credentials>, SecretsError> {
    let [name_file, secret_file] = ["username", "password"].map(|key| directory.join(format!("{prefix}.{key}{side}")));
    match (text(&name_file)?, text(&secret_file)?) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(SecretsError::Missing(name_file)),
        (Some(_), None) => Err(SecretsError::Missing(secret_file)),
        (Some(name), Some(secret)) => {
            let unusable = |source| SecretsError::Credentials { directory: directory.to_owned(), source };
            Credentials::new(name, secret).map(Some).map_err(unusable)
        }
    }
}

fn text(path: &Path) -> Result<Option<String>, SecretsError> {
    let mut text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| SecretsError::Text(path.to_owned()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SecretsError::Read { path: path.to_owned(), source }),
    };
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn what_a_secret_says() {
        let files = [
            ("node.session.auth.username", "user\n"),
            ("node.session.auth.password", "initiator-secret\n"),
            ("node.session.auth.username_in", "me"),
            ("node.session.auth.password_in", "the-target-secret"),
        ];
        let accounts = read_accounts(directory(&files).path()).unwrap();
        let account = |name: &str, secret: &str| Credentials::new(name, secret).unwrap();
        let wanted = ChapAccount::new(account("user", "initiator-secret"), Some(account("me", "the-target-secret")));
        assert_eq!(accounts, Accounts { session: Arc::new(wanted.unwrap()), discovery: None });

        let discovery = [
            ("discovery.sendtargets.auth.username", "finder"),
            ("discovery.sendtargets.auth.password", "discovery-secret"),
        ];
        let accounts = read_accounts(directory(&[&files[..2], &discovery[..]].concat()).path()).unwrap();
        let wanted = ChapAccount::new(account("finder", "discovery-secret"), None).unwrap();
        assert_eq!(accounts.discovery, Some(Arc::new(wanted)));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_without_the_secret() {
        let error = |files: &[(&str, &str)]| read_accounts(directory(files).path()).unwrap_err().to_string();
        let (name, secret) = ("node.session.auth.username", "node.session.auth.password");
        assert!(error(&[]).contains(name));
        assert!(error(&[(name, "user")]).contains(secret));
        assert!(error(&[(secret, "initiator-secret")]).contains(name));
        let short = error(&[(name, "user"), (secret, "short")]);
        assert!(short.contains("5 bytes") && !short.contains("short\""), "{short}");
        let same = [("node.session.auth.username_in", "me"), ("node.session.auth.password_in", "initiator-secret")];
        let same = error(&[&[(name, "user"), (secret, "initiator-secret")], &same[..]].concat());
        assert!(same.contains("the same") && !same.contains("initiator-secret"), "{same}");
    }
}
