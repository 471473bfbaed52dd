//! How a command ends: the exit codes scripts rely on, and the error that carries one.
//!
//! Every failure of the binary passes through [`Failure`], so that the code a script sees is chosen where the
//! condition is understood and nowhere else. The numbers are an interface: they never change meaning.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// The exit codes of `tenantry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything asked for happened.
    Ok = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line or the configuration makes no sense; clap uses the same number.
    Usage = 2,
    /// The thing named does not exist.
    NotFound = 3,
    /// The thing exists but is not in a state that allows this.
    Precondition = 4,
    /// The catalog or the operating system refused for lack of permission.
    NotAllowed = 5,
    /// The wait ended; the operation goes on.
    TimedOut = 6,
    /// Something needed is unreachable right now; the same command may work later.
    Transient = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked, what the caller can do about it, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure with the code `exit` whose first line is `message`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// A mistake in the command line or the configuration.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// Something exists but is in the wrong state.
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(Exit::Precondition, message)
    }

    /// Adds what the reader should do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error underneath; its chain is printed below the message.
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The code the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(source) = &self.source {
            for cause in source.chain() {
                write!(f, "\n  because: {cause}")?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut chain = error.chain();
        let message = chain.next().map_or_else(String::new, ToString::to_string);
        let source = chain
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .fold(None, |inner: Option<anyhow::Error>, cause| {
                Some(match inner {
                    Some(inner) => inner.context(cause),
                    None => anyhow::Error::msg(cause),
                })
            });
        Self {
            exit: Exit::Failed,
            message,
            hint: None,
            source,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// Attaches a message to an error of any kind, keeping the code [`Exit::Failed`].
pub(crate) trait Explain<T> {
    /// Fails with `message` and the error underneath.
    fn explain(self, message: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error + Send + Sync + 'static> Explain<T> for Result<T, E> {
    fn explain(self, message: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(Exit::Failed, message()).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_prints_causes_and_hint_below_the_message() {
        let failure = Failure::not_found("no tenant `nobody`")
            .because(anyhow::anyhow!("inner").context("outer"))
            .hint("list them with `tenantry tenant list`");
        insta::assert_snapshot!(failure, @r"
        error: no tenant `nobody`
          because: outer
          because: inner
          hint: list them with `tenantry tenant list`
        ");
        assert_eq!(failure.exit(), Exit::NotFound);
    }
}
