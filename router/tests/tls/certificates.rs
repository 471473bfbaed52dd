//! Certificates of clients, and the router's own while it is renewed.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use tenantry_router::config::ClientSslMode;
use tenantry_router::{Fresh, ReadConfig, RouterError, TlsError};
use tenantry_testkit::tls::{Authority, Certificate};
use tenantry_testkit::{Fleet, RawClient, RawError};
use tenantry_wire::startup::ProtocolVersion;

use super::common::probe::{assert_fields, until};
use super::common::{config, setup_with};
use super::{NAME, Stage, configure};

fn showing(stage: &Stage, certificate: &Certificate) -> Arc<ClientConfig> {
    Arc::new(stage.authority.client_config(Some(certificate)).unwrap())
}

async fn login(stage: &Stage, config: &Arc<ClientConfig>, user: &str) -> Result<(), RawError> {
    let client = RawClient::connect(stage.setup.address).await?;
    let mut client = client.encrypt(config, NAME).await?;
    let login = stage.setup.login(user);
    client.start_session(ProtocolVersion::V3_0, &login).await?;
    client.query("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_demanded() {
    let stage = Stage::new(ClientSslMode::VerifyCa).await;
    let any = showing(&stage, &stage.authority.client("whoever").unwrap());
    login(&stage, &any, "shop").await.unwrap();

    let shop = stage.setup.login("shop");
    let error = stage.refused(&stage.trusting(), NAME, &shop).await;
    assert_fields(&error, "28000", "CERTIFICATE_REQUIRED");
    let (content, text) = stage.psql("sslmode=require", "SELECT 1").await;
    assert!(
        !content && text.contains("connection requires a valid client certificate"),
        "{text}"
    );

    let stranger = Authority::new().unwrap().client("shop").unwrap();
    let expired = stage.authority.expired("shop").unwrap();
    for certificate in [stranger, expired] {
        let refused = login(&stage, &showing(&stage, &certificate), "shop").await;
        assert!(matches!(refused, Err(RawError::Io(_))), "{refused:?}");
    }
    until("all are counted", async || {
        let failed = stage
            .setup
            .metric("login_failures_total", "TLS_HANDSHAKE")
            .await;
        (failed >= 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_certificate_must_be_the_roles_own() {
    let stage = Stage::new(ClientSslMode::VerifyFull).await;
    let own = stage.authority.client("shop").unwrap();
    let config = showing(&stage, &own);
    login(&stage, &config, "shop").await.unwrap();
    login(&stage, &config, &format!("shop.{}", stage.setup.id(0)))
        .await
        .unwrap();

    let error = stage
        .refused(&config, NAME, &stage.setup.login("store1"))
        .await;
    assert_fields(&error, "28000", "CERTIFICATE_MISMATCH");
    // Who does not know the password learns nothing of it.
    let mut wrong = stage.setup.login("store1");
    wrong.password.push('x');
    let error = stage.refused(&config, NAME, &wrong).await;
    assert_fields(&error, "28P01", "AUTHENTICATION_FAILED");

    let files = own.save(stage.dir(), "client").unwrap();
    let options = format!(
        "sslmode=verify-full sslrootcert={} sslcert={} sslkey={} channel_binding=require",
        stage.root_file(),
        files.certificate.display(),
        files.private_key.display()
    );
    assert_eq!(
        stage.psql(&options, "SELECT 1").await,
        (true, "1".to_owned())
    );
}

/// The certificate that a new connection is shown.
async fn shown(stage: &Stage, config: &Arc<ClientConfig>) -> Vec<u8> {
    let client = stage.encrypted(config, NAME).await;
    client.tls().unwrap().peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let config = stage.trusting();
    let old = shown(&stage, &config).await;
    let mut open = stage.login("shop").await;

    stage
        .authority
        .server(NAME)
        .unwrap()
        .save(stage.dir(), "router")
        .unwrap();
    let new = until("the new certificate is shown", async || {
        let now = shown(&stage, &config).await;
        (now != old).then_some(now)
    })
    .await;
    open.query("SELECT 1").await.unwrap();
    stage.login("shop").await;

    // Nothing that cannot serve takes its place: no PEM, another's key, a key for all to read, one that has expired.
    let mut failures = 0.0;
    let certificate = stage.dir().join("router.crt");
    let key = stage.dir().join("router.key");
    let good = (
        std::fs::read(&certificate).unwrap(),
        std::fs::read(&key).unwrap(),
    );
    let expired = stage.authority.expired(NAME).unwrap();
    let broken: [&dyn Fn(); 4] = [
        &|| std::fs::write(&certificate, "no certificate").unwrap(),
        &|| std::fs::write(&key, expired.private_key.as_bytes()).unwrap(),
        &|| {
            std::fs::write(&key, &good.1).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        },
        &|| drop(expired.save(stage.dir(), "router").unwrap()),
    ];
    for damage in broken {
        damage();
        failures += 1.0;
        until("the damage is noticed", async || {
            let noticed = stage.setup.metric("tls_reload_failures_total", "").await;
            (noticed >= failures).then_some(())
        })
        .await;
        assert_eq!(shown(&stage, &config).await, new);
        // Whole again, so that the next damage is the only one.
        std::fs::write(&certificate, &good.0).unwrap();
        std::fs::write(&key, &good.1).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    stage
        .authority
        .server(NAME)
        .unwrap()
        .save(stage.dir(), "router")
        .unwrap();
    until("a certificate that serves is taken again", async || {
        (shown(&stage, &config).await != new).then_some(())
    })
    .await;
    open.query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_router_does_not_start_with_files_that_cannot_serve() {
    let setup = setup_with(Fleet::builder().shards(1), |_| ()).await;
    let authority = Authority::new().unwrap();
    let started = async |prepare: &dyn Fn(&mut tenantry_router::Config)| {
        let mut config = config(&setup.fleet);
        let certificate = authority.server(NAME).unwrap();
        configure(
            &mut config,
            ClientSslMode::VerifyCa,
            &authority,
            &certificate,
        );
        prepare(&mut config);
        match tenantry_router::start(config).await {
            Err(RouterError::Tls(error)) => error,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it has started"),
        }
    };
    let error = started(&|config| {
        let key = config.client_tls.key_file.as_ref().unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o640)).unwrap();
    })
    .await;
    assert!(
        matches!(error, TlsError::KeyMode { mode: 0o640, .. }),
        "{error:?}"
    );
    let error = started(&|config| {
        config.client_tls.ca_file = config.client_tls.key_file.clone();
    })
    .await;
    assert!(matches!(error, TlsError::Empty { .. }), "{error:?}");
    let error = started(&|config| {
        let other = authority.server(NAME).unwrap();
        let dir = config.secrets_file.parent().unwrap();
        config.client_tls.key_file = Some(other.save(dir, "other").unwrap().private_key);
    })
    .await;
    assert!(matches!(error, TlsError::Unusable { .. }), "{error:?}");
    let error =
        started(&|config| config.client_tls.cert_file = Some("/nowhere/to/be".into())).await;
    assert!(matches!(error, TlsError::Read { .. }), "{error:?}");
}

#[tokio::test]
async fn a_reload_changes_what_is_demanded() {
    let stage = Stage::new(ClientSslMode::Require).await;
    let mut first = config(&stage.setup.fleet);
    let certificate = stage.authority.server(NAME).unwrap();
    configure(
        &mut first,
        ClientSslMode::Allow,
        &stage.authority,
        &certificate,
    );
    first.name = "another".to_owned();
    let configured = Arc::new(Mutex::new(first.clone()));
    let source = Arc::clone(&configured);
    let source: ReadConfig = Arc::new(move || {
        Ok(Fresh {
            config: source.lock().clone(),
            adopt: Box::new(Vec::new),
        })
    });
    let router = tenantry_router::start_from(first, Some(source))
        .await
        .unwrap();
    let login = stage.setup.login("shop");
    until("the router knows the fleet", async || {
        RawClient::login(router.pg_addr, &login).await.ok()
    })
    .await;

    // What cannot serve changes nothing, not even what could.
    configured.lock().client_tls.sslmode = ClientSslMode::Require;
    configured.lock().client_tls.ca_file = None;
    let certificate = configured.lock().client_tls.cert_file.clone();
    configured.lock().client_tls.cert_file = Some("/nowhere/to/be".into());
    let error = router.reload().await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/to/be"), "{error}");
    RawClient::login(router.pg_addr, &login).await.unwrap();

    configured.lock().client_tls.cert_file = certificate;
    let changes = router.reload().await.unwrap();
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(
        keys,
        ["router.client_tls_sslmode", "router.client_tls_ca_file"]
    );
    match RawClient::login(router.pg_addr, &login).await {
        Err(RawError::Refused(error)) => assert_fields(&error, "28000", "TLS_REQUIRED"),
        other => panic!("{other:?}"),
    }
    router.stop().await;
}
