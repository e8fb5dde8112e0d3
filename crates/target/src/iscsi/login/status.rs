//! Login status codes (RFC 7143 section 11.13.5).

/// Status-Class and Status-Detail of a Login Response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginStatus {
    /// Go on.
    #[error("success")]
    Success,
    /// Initiator error, not told more precisely.
    #[error("the initiator broke the login protocol")]
    InitiatorError,
    /// The initiator could not be authenticated.
    #[error("authentication failed")]
    AuthenticationFailed,
    /// The initiator is not among those that may use the target.
    #[error("this initiator may not use that target")]
    Forbidden,
    /// No such target.
    #[error("there is no target of that name here")]
    NotFound,
    /// The version range does not include 0.
    #[error("unsupported iSCSI version")]
    UnsupportedVersion,
    /// A mandatory key is missing.
    #[error("InitiatorName or TargetName is missing")]
    MissingParameter,
    /// Neither Normal nor Discovery.
    #[error("unknown session type")]
    SessionType,
    /// The TSIH names no session that could take the connection.
    #[error("no such session")]
    NoSession,
    /// A request that is not allowed during login.
    #[error("request not allowed during login")]
    InvalidDuringLogin,
    /// The target is there but cannot serve now; the initiator may try again.
    #[error("service unavailable, try again")]
    ServiceUnavailable,
    /// Limits are reached.
    #[error("out of resources")]
    OutOfResources,
}

impl LoginStatus {
    /// Class in the high byte, detail in the low one.
    pub fn code(self) -> u16 {
        match self {
            Self::Success => 0x0000,
            Self::InitiatorError => 0x0200,
            Self::AuthenticationFailed => 0x0201,
            Self::Forbidden => 0x0202,
            Self::NotFound => 0x0203,
            Self::UnsupportedVersion => 0x0205,
            Self::MissingParameter => 0x0207,
            Self::SessionType => 0x0209,
            Self::NoSession => 0x020a,
            Self::InvalidDuringLogin => 0x020b,
            Self::ServiceUnavailable => 0x0301,
            Self::OutOfResources => 0x0302,
        }
    }
}
