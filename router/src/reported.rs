//! Which settings a server reports for a client's startup settings.

use std::collections::BTreeMap;

use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frontend::{self, Format};

use crate::error::Refusal;
use crate::server::{Bound, Server};
use crate::session::Settings;

/// Why a session cannot start with its settings.
#[derive(Debug)]
pub(crate) enum ReportedError {
    /// No server connection to try them on.
    Refused(Refusal),
    /// The server does not accept one of them.
    Invalid(Box<ErrorFields>),
    /// The server connection broke.
    Broken,
}

/// Applies the settings and answers what the server reports then.
pub(crate) async fn try_on(
    server: &mut Server,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, ReportedError> {
    let applied = server.link.state.applied.take();
    if applied.is_none() {
        server.link.state.bound = Bound::Unknown;
    }
    let statements = settings.statements_after(applied.as_ref());
    for text in &statements {
        frontend::put_parse(&mut server.link.output, "", text, &[]);
        frontend::put_bind(&mut server.link.output, "", "", &[], Format::Text);
        frontend::put_execute(&mut server.link.output, "", 0);
    }
    frontend::put_sync(&mut server.link.output);
    server.link.state.unnamed = None;
    let error = server.exchange().await.map_err(|_| ReportedError::Broken)?;
    match error {
        Some(fields) => Err(ReportedError::Invalid(Box::new(fields))),
        None => {
            server.link.state.applied = Some(settings.clone());
            Ok(server.link.state.parameters.clone())
        }
    }
}
