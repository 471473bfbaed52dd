//! Which settings a server reports for a client's startup settings.

use std::collections::BTreeMap;

use tenantry_wire::backend::{self, ErrorFields};
use tenantry_wire::frame::{LARGE_MESSAGE_LIMIT, Message};
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::backend as tag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::Refusal;
use crate::server::Server;
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
    let mut statements = match &applied {
        Some(applied) => applied.difference(settings),
        None => vec!["RESET ALL".to_owned()],
    };
    if applied.is_none() {
        statements.extend(Settings::default().difference(settings));
        server.link.state.bound = crate::server::Bound::Unknown;
    }
    for text in &statements {
        frontend::put_parse(&mut server.link.output, "", text, &[]);
        frontend::put_bind(&mut server.link.output, "", "", &[], Format::Text);
        frontend::put_execute(&mut server.link.output, "", 0);
    }
    frontend::put_sync(&mut server.link.output);
    server.link.state.unnamed = None;
    let output = server.link.output.split();
    server
        .socket
        .write_all(&output)
        .await
        .map_err(|_| ReportedError::Broken)?;
    match until_ready(server).await? {
        Some(fields) => Err(ReportedError::Invalid(Box::new(fields))),
        None => {
            server.link.state.applied = Some(settings.clone());
            Ok(server.link.state.parameters.clone())
        }
    }
}

async fn until_ready(server: &mut Server) -> Result<Option<ErrorFields>, ReportedError> {
    let mut error = None;
    loop {
        while let Some(message) = Message::take(&mut server.link.input, LARGE_MESSAGE_LIMIT)
            .map_err(|_| ReportedError::Broken)?
        {
            match message.tag {
                tag::ERROR => {
                    let fields = ErrorFields::decode(message.body());
                    error = Some(fields.map_err(|_| ReportedError::Broken)?);
                }
                tag::PARAMETER_STATUS => {
                    let status = backend::parameter_status(message.body())
                        .map_err(|_| ReportedError::Broken)?;
                    server.link.state.parameters.insert(
                        String::from_utf8_lossy(status.name).into_owned(),
                        String::from_utf8_lossy(status.value).into_owned(),
                    );
                }
                tag::READY_FOR_QUERY => return Ok(error),
                _ => {}
            }
        }
        match server.socket.read_buf(&mut server.link.input).await {
            Ok(0) | Err(_) => return Err(ReportedError::Broken),
            Ok(_) => {}
        }
    }
}
