//! What a command answers when it cannot be done.

use std::ops::Deref;

use tenantry_wire::backend::{ErrorFields, Severity};

/// An error for the client; boxed, because success is the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint(Box<ErrorFields>);

impl Complaint {
    pub(super) fn error(code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorFields::error(code, message)))
    }

    /// One that ends the session.
    pub(super) fn fatal(code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorFields::new(Severity::Fatal, code, message)))
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(super) fn with_routine(mut self, routine: impl Into<String>) -> Self {
        self.0.routine = Some(routine.into());
        self
    }
}

impl From<ErrorFields> for Complaint {
    fn from(fields: ErrorFields) -> Self {
        Self(Box::new(fields))
    }
}

impl Deref for Complaint {
    type Target = ErrorFields;

    fn deref(&self) -> &ErrorFields {
        &self.0
    }
}
