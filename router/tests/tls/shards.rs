//! TLS towards shards: what is demanded of a server, and what a login and a cancel request travel in.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tenantry_router::config::ServerSslMode;
use tenantry_schema::shard::ShardAddress;
use tenantry_testkit::tls::{Authority, Certificate};
use tenantry_testkit::{Fleet, RawClient, RawError, error_of, rows_of};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::common::probe::{assert_fields, busy_backends, until};
use super::common::{Setup, setup_with};

/// A fleet whose server shows `certificate`, if any, and a router that demands `mode` of it.
async fn stage(
    certificate: Option<Certificate>,
    mode: ServerSslMode,
    authority: &Authority,
) -> Setup {
    let builder = Fleet::builder().shards(1).tenants(1);
    let builder = match certificate {
        Some(certificate) => builder.certificate(certificate),
        None => builder,
    };
    setup_with(builder, |config| {
        let path = config.secrets_file.with_file_name("shards-ca.crt");
        config.server_tls.sslmode = mode;
        config.server_tls.ca_file = Some(authority.save(&path).unwrap());
    })
    .await
}

/// Whether the router's connections are encrypted, as the server sees it.
async fn is_encrypted(setup: &Setup) -> bool {
    let mut client = setup.raw_for(0).await;
    client.query("SELECT 1").await.unwrap();
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let seen = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE usename = 'tenantry_app'";
    admin.query_one(seen, &[]).await.unwrap().get(0)
}

async fn refused(setup: &Setup) -> ErrorFields {
    let login = setup.login(&format!("shop.{}", setup.id(0)));
    match RawClient::login(setup.address, &login).await {
        Err(RawError::Refused(fields)) => *fields,
        Ok(mut client) => error_of(&client.query("SELECT 1").await.unwrap()).unwrap(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn every_mode_encrypts_where_the_server_can() {
    let authority = Authority::new().unwrap();
    for mode in [
        ServerSslMode::Prefer,
        ServerSslMode::Require,
        ServerSslMode::VerifyCa,
        ServerSslMode::VerifyFull,
    ] {
        let certificate = authority.server("shard.test").unwrap();
        let setup = stage(Some(certificate), mode, &authority).await;
        assert!(is_encrypted(&setup).await, "{mode}");
        setup.nothing_leaked(0).await;
    }
    let certificate = authority.server("shard.test").unwrap();
    let setup = stage(Some(certificate), ServerSslMode::Disable, &authority).await;
    assert!(!is_encrypted(&setup).await);
}

#[tokio::test]
async fn a_server_without_tls_serves_if_that_is_allowed() {
    let authority = Authority::new().unwrap();
    let setup = stage(None, ServerSslMode::Prefer, &authority).await;
    assert!(!is_encrypted(&setup).await);
    let setup = stage(None, ServerSslMode::Require, &authority).await;
    let error = refused(&setup).await;
    assert_fields(&error, "57P03", "SHARD_DOWN");
    let detail = error.detail.unwrap();
    assert!(detail.contains("does not support TLS"), "{detail}");
}

#[tokio::test]
async fn a_certificate_is_checked_as_the_mode_says() {
    let authority = Authority::new().unwrap();
    let elsewhere = authority
        .server_for(&["shard.test"], &["192.0.2.1".parse().unwrap()])
        .unwrap();
    // The shard's address is 127.0.0.1, which this certificate is not for.
    let setup = stage(Some(elsewhere.clone()), ServerSslMode::VerifyCa, &authority).await;
    assert!(is_encrypted(&setup).await);
    let setup = stage(Some(elsewhere), ServerSslMode::VerifyFull, &authority).await;
    let error = refused(&setup).await;
    assert_fields(&error, "57P03", "SHARD_DOWN");
    assert!(
        error.detail.as_ref().unwrap().contains("certificate"),
        "{error:?}"
    );

    let stranger = Authority::new().unwrap();
    for mode in [ServerSslMode::VerifyCa, ServerSslMode::VerifyFull] {
        let foreign = stranger.server("shard.test").unwrap();
        let setup = stage(Some(foreign), mode, &authority).await;
        let error = refused(&setup).await;
        assert_fields(&error, "57P03", "SHARD_DOWN");
        assert!(
            error.detail.as_ref().unwrap().contains("certificate"),
            "{error:?}"
        );
    }
    let expired = authority.expired("127.0.0.1").unwrap();
    let setup = stage(Some(expired), ServerSslMode::VerifyCa, &authority).await;
    assert_fields(&refused(&setup).await, "57P03", "SHARD_DOWN");
}

#[tokio::test]
async fn a_statement_is_cancelled_over_tls() {
    let authority = Authority::new().unwrap();
    let certificate = authority.server("shard.test").unwrap();
    let setup = stage(Some(certificate), ServerSslMode::VerifyFull, &authority).await;
    let mut client = setup.raw_for(0).await;
    client
        .send(|out| frontend::put_query(out, "SELECT pg_sleep(60)"))
        .await
        .unwrap();
    until("the statement runs", async || {
        (busy_backends(setup.fleet.shard(0)).await.unwrap() == 1).then_some(())
    })
    .await;
    client.cancel().await.unwrap();
    let error = error_of(&client.until_ready().await.unwrap()).unwrap();
    assert_eq!(error.code, "57014");
    // The connection was drained and serves again.
    let rows = rows_of(&client.query("SELECT 1").await.unwrap());
    assert_eq!(rows, vec![vec![Some("1".to_owned())]]);
    setup.nothing_leaked(1).await;
}

/// Ends TLS with a certificate of its own and passes everything on: what `require` does not notice.
async fn man_in_the_middle(
    certificate: &Certificate,
    authority: &Authority,
    to: SocketAddr,
) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(certificate.private_key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let connector = TlsConnector::from(Arc::new(authority.client_config(None).unwrap()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                let mut server = TcpStream::connect(to).await?;
                server.write_all(&request).await?;
                client.write_u8(server.read_u8().await?).await?;
                let name = ServerName::try_from("shard.test").expect("a name");
                let mut server = connector.connect(name, server).await?;
                let mut client = acceptor.accept(client).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    port
}

/// `require` checks no certificate; that both ends see the same one is what SCRAM-SHA-256-PLUS shows.
#[tokio::test]
async fn a_login_that_is_bound_does_not_pass_a_man_in_the_middle() {
    let authority = Authority::new().unwrap();
    let own = authority.server("shard.test").unwrap();
    let setup = stage(Some(own.clone()), ServerSslMode::Require, &authority).await;
    assert!(is_encrypted(&setup).await);
    let shard = setup.fleet.shard(0);
    let target = SocketAddr::from(([127, 0, 0, 1], shard.shard().address.port));
    let readdress = async |port: u16| {
        let address = ShardAddress {
            port,
            ..shard.shard().address.clone()
        };
        let catalog = setup.fleet.catalog();
        catalog
            .set_shard_address(shard.id(), &address)
            .await
            .unwrap();
    };
    // With the shard's own certificate, and so its key, nobody could tell.
    let with_key = man_in_the_middle(&own, &authority, target).await;
    let without = man_in_the_middle(
        &Authority::new().unwrap().server("x.test").unwrap(),
        &authority,
        target,
    )
    .await;
    readdress(without).await;
    let error = until("the login is refused", async || {
        let login = setup.login(&format!("shop.{}", setup.id(0)));
        match RawClient::login(setup.address, &login).await {
            Err(RawError::Refused(fields)) => Some(*fields),
            Ok(mut client) => error_of(&client.query("SELECT 1").await.unwrap()),
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    assert_fields(&error, "57P03", "SHARD_DOWN");
    let detail = error.detail.unwrap();
    assert!(detail.contains("channel binding"), "{detail}");
    readdress(with_key).await;
    until("the login passes", async || {
        let mut client = setup.raw_for(0).await;
        error_of(&client.query("SELECT 1").await.unwrap())
            .is_none()
            .then_some(())
    })
    .await;
}

/// Agrees to encrypt and breaks off; serves whoever comes without.
async fn broken_tls(to: SocketAddr) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                if request[4..] == 80_877_103_u32.to_be_bytes() {
                    return client.write_u8(b'S').await;
                }
                let mut server = TcpStream::connect(to).await?;
                server.write_all(&request).await?;
                copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
    port
}

/// As with libpq, `prefer` is not worth a connection that could be had.
#[tokio::test]
async fn a_server_whose_tls_is_broken_serves_without_it_if_that_is_allowed() {
    let authority = Authority::new().unwrap();
    for (mode, serves) in [
        (ServerSslMode::Prefer, true),
        (ServerSslMode::Require, false),
    ] {
        let setup = stage(None, mode, &authority).await;
        let shard = setup.fleet.shard(0);
        let target = SocketAddr::from(([127, 0, 0, 1], shard.shard().address.port));
        let address = ShardAddress {
            port: broken_tls(target).await,
            ..shard.shard().address.clone()
        };
        let mut known = setup.router.as_ref().unwrap().follow.clone();
        let before = known.borrow().sequence;
        let catalog = setup.fleet.catalog();
        catalog
            .set_shard_address(shard.id(), &address)
            .await
            .unwrap();
        known
            .wait_for(|status| status.sequence > before)
            .await
            .unwrap();
        if serves {
            assert!(!is_encrypted(&setup).await);
        } else {
            assert_fields(&refused(&setup).await, "57P03", "SHARD_DOWN");
        }
    }
}
