//! Certificates for one test: authorities, what they sign, and client configurations of rustls.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// PostgreSQL's name in the registry of ALPN protocols.
pub const ALPN: &[u8] = b"postgresql";

/// Somebody who signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub private_key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// Files as servers and libpq want them.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub private_key: PathBuf,
}

impl Authority {
    /// A new authority that signs with ECDSA P-256 and SHA-256.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new() -> anyhow::Result<Self> {
        Self::signing_with(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// A new authority.
    ///
    /// # Errors
    /// No key can be made.
    pub fn signing_with(algorithm: &'static SignatureAlgorithm) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(algorithm)?;
        let mut params = CertificateParams::new(Vec::new())?;
        // OpenSSL looks for an issuer by its name first: each has its own.
        let serial: u64 = key
            .public_key_raw()
            .iter()
            .rev()
            .take(7)
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        params.distinguished_name = named(&format!("test authority {serial:x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, key)?,
        })
    }

    /// The authority's own certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the authority's certificate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<PathBuf> {
        std::fs::write(path, self.pem())?;
        Ok(path.to_owned())
    }

    /// A server's certificate for this name and for 127.0.0.1.
    ///
    /// # Errors
    /// The name is no host name.
    pub fn server(&self, name: &str) -> anyhow::Result<Certificate> {
        self.server_for(&[name], &[IpAddr::from(Ipv4Addr::LOCALHOST)])
    }

    /// A server's certificate for these names and addresses.
    ///
    /// # Errors
    /// A name is no host name.
    pub fn server_for(&self, names: &[&str], addresses: &[IpAddr]) -> anyhow::Result<Certificate> {
        let owned: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(owned)?;
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.distinguished_name = named(names.first().copied().unwrap_or_default());
        self.sign(&params)
    }

    /// A client's certificate with this common name.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn client(&self, common_name: &str) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(common_name);
        self.sign(&params)
    }

    /// A certificate whose time is over.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn expired(&self, name: &str) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = named(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> anyhow::Result<Certificate> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certificate {
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
        })
    }

    /// A client that trusts this authority, asks for ALPN `postgresql`, and shows `own` if there is one.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn client_config(&self, own: Option<&Certificate>) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(own.private_key.as_bytes())?,
            )?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

impl Certificate {
    /// Writes `NAME.crt` and `NAME.key`, each as a whole, in place of what was there.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn save(&self, dir: &Path, name: &str) -> anyhow::Result<CertificateFiles> {
        let files = CertificateFiles {
            certificate: dir.join(format!("{name}.crt")),
            private_key: dir.join(format!("{name}.key")),
        };
        for (path, text) in [
            (&files.private_key, &self.private_key),
            (&files.certificate, &self.certificate),
        ] {
            let new = path.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&new, path)?;
        }
        Ok(files)
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
