//! Children that do not outlive their supervisor.
//!
//! The supervisor sets [`SUPERVISOR_PID`] for each child. A child asks the kernel to be killed when its parent dies
//! (PR_SET_PDEATHSIG) before it does anything else. The signal is SIGKILL: a pool survives it by design, and it cannot
//! be held up. The parent may have died before the call; then the parent's pid is no longer the one in the variable.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Environment variable with the pid of the supervisor.
pub(crate) const SUPERVISOR_PID: &str = "BALLAST_SUPERVISOR_PID";

/// The process was started by a supervisor that is gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    /// The variable is not a number.
    #[error("{SUPERVISOR_PID}={0:?} is not a pid: unset it, it is set by `ballast up` for its own children")]
    BadVariable(std::ffi::OsString),
    /// The parent died between fork and now.
    #[error("the supervisor (pid {0}) that started this process is gone: start `ballast up` again")]
    Gone(u32),
    /// prctl failed.
    #[error("cannot ask the kernel to end this process with its supervisor: {0}")]
    Prctl(#[source] rustix::io::Errno),
}

/// Ties the life of this process to its supervisor's, when there is one.
pub(crate) fn die_with_supervisor() -> Result<(), ParentError> {
    let Some(value) = std::env::var_os(SUPERVISOR_PID) else {
        return Ok(());
    };
    let pid: u32 = match value.to_str().and_then(|text| text.parse().ok()) {
        Some(pid) => pid,
        None => return Err(ParentError::BadVariable(value)),
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(ParentError::Prctl)?;
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent.and_then(|parent| u32::try_from(parent).ok()) == Some(pid) { Ok(()) } else { Err(ParentError::Gone(pid)) }
}
