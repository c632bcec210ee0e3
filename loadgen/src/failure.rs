//! Why a request did not succeed, and what that is called in reports.

/// Why a request did not succeed. The order is the order in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Connect,
    ConnectTimeout,
    /// Open loop: it was due when the queue of waiting requests was full.
    QueueFull,
    /// Open loop: it had not been answered when the run was over, or not even been sent.
    Unfinished,
    /// The peer reset the connection.
    Reset,
    Send,
    Receive,
    /// The peer closed before it answered.
    Closed,
    /// The peer closed in the middle of the body.
    ShortBody,
    /// Nothing moved for the whole deadline.
    Timeout,
    BadHead,
    /// The framing of the body is broken, or bytes follow it.
    BadBody,
    Status(u16),
    WrongRange,
    WrongLength,
    /// The bytes were replaced by an acknowledged PUT before the request began.
    Stale,
    Corrupt,
}

impl Failure {
    /// The name in reports.
    pub(crate) fn name(self) -> String {
        let name = match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::QueueFull => "queue_full",
            Self::Unfinished => "unfinished",
            Self::Reset => "reset",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Closed => "closed",
            Self::ShortBody => "short_body",
            Self::Timeout => "timeout",
            Self::BadHead => "bad_head",
            Self::BadBody => "bad_body",
            Self::Status(status) => return format!("status_{status}"),
            Self::WrongRange => "wrong_range",
            Self::WrongLength => "wrong_length",
            Self::Stale => "stale",
            Self::Corrupt => "corrupt",
        };
        name.to_owned()
    }
}
