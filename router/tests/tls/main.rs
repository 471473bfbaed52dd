//! Encrypted connections, of clients and towards shards: who gets in, who does not, and what each is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod encryption;
mod names;
mod shards;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DATABASE, PASSWORD, Setup, setup_with};
use rustls::ClientConfig;
use tenantry_router::Config;
use tenantry_router::config::ClientSslMode;
use tenantry_testkit::tls::{Authority, Certificate};
use tenantry_testkit::{Fleet, Login, RawClient, RawError};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::startup::ProtocolVersion;
use tokio::process::Command;

/// What clients call the router.
pub(crate) const NAME: &str = "db.test";

/// A name that a tenant may have.
pub(crate) const HOSTNAME: &str = "shop.example.com";
/// Another name of the router.
pub(crate) const ELSEWHERE: &str = "elsewhere.example";

/// A router that encrypts, and the authority that clients trust.
pub(crate) struct Stage {
    pub(crate) setup: Setup,
    pub(crate) authority: Authority,
    dir: PathBuf,
}

impl Stage {
    /// Two tenants on one shard.
    pub(crate) async fn new(mode: ClientSslMode) -> Self {
        Self::with(mode, Authority::new().unwrap(), |_| ()).await
    }

    pub(crate) async fn with(
        mode: ClientSslMode,
        authority: Authority,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let builder = Fleet::builder().shards(1).tenants(2);
        let wildcard = format!("*.{NAME}");
        let names = [NAME, &wildcard, HOSTNAME, ELSEWHERE];
        let certificate = authority.server_for(&names, &[]).unwrap();
        let mut place = PathBuf::new();
        let setup = setup_with(builder, |config| {
            place = config.secrets_file.parent().unwrap().to_owned();
            configure(config, mode, &authority, &certificate);
            change(config);
        })
        .await;
        Self {
            setup,
            authority,
            dir: place,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client's side that shows no certificate.
    pub(crate) fn trusting(&self) -> Arc<ClientConfig> {
        Arc::new(self.authority.client_config(None).unwrap())
    }

    /// A connection that is encrypted and has sent nothing yet.
    pub(crate) async fn encrypted(&self, config: &Arc<ClientConfig>, name: &str) -> RawClient {
        let client = RawClient::connect(self.setup.address).await.unwrap();
        client.encrypt(config, name).await.unwrap()
    }

    /// A session over TLS.
    pub(crate) async fn login(&self, user: &str) -> RawClient {
        let mut client = self.encrypted(&self.trusting(), NAME).await;
        let login = self.setup.login(user);
        client
            .start_session(ProtocolVersion::V3_0, &login)
            .await
            .unwrap();
        client
    }

    /// The error of a login over TLS that must not succeed.
    pub(crate) async fn refused(
        &self,
        config: &Arc<ClientConfig>,
        name: &str,
        login: &Login,
    ) -> ErrorFields {
        let mut client = self.encrypted(config, name).await;
        match client.start_session(ProtocolVersion::V3_0, login).await {
            Err(RawError::Refused(fields)) => *fields,
            other => panic!("{other:?}"),
        }
    }

    /// One statement by psql; what it prints, and whether it was content.
    pub(crate) async fn psql(&self, options: &str, statement: &str) -> (bool, String) {
        let conninfo = format!(
            "host={NAME} hostaddr=127.0.0.1 port={} dbname={DATABASE} user=shop {options}",
            self.setup.address.port()
        );
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-d", &conninfo, "-c", statement])
            .env("PGPASSWORD", PASSWORD)
            .env("HOME", &self.dir)
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        (output.status.success(), text.trim().to_owned())
    }

    /// The authority's certificate in a file, for libpq.
    pub(crate) fn root_file(&self) -> String {
        let path = self.dir.join("root.crt");
        self.authority.save(&path).unwrap();
        path.display().to_string()
    }
}

/// Writes the files and names them.
pub(crate) fn configure(
    config: &mut Config,
    mode: ClientSslMode,
    authority: &Authority,
    certificate: &Certificate,
) {
    let dir = config.secrets_file.parent().unwrap().to_owned();
    let files = certificate.save(&dir, "router").unwrap();
    let tls = &mut config.client_tls;
    tls.sslmode = mode;
    tls.cert_file = Some(files.certificate);
    tls.key_file = Some(files.private_key);
    tls.ca_file = Some(authority.save(&dir.join("clients-ca.crt")).unwrap());
    tls.sni_suffix = Some(NAME.to_owned());
}
