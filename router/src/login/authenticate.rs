//! SCRAM, with and without channel binding, and the check of a client's certificate.

use tenantry_wire::backend;
use tenantry_wire::frame::{AUTHENTICATION_LIMIT, Message};
use tenantry_wire::frontend;
use tenantry_wire::scram::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, ServerExchange, Step, Verifier,
};
use tenantry_wire::tag::frontend as tag;

use super::{Login, LoginEnd};
use crate::config::ClientSslMode;
use crate::error::Refusal;
use crate::identify::Claim;

const PLAIN: &[u8] = SCRAM_SHA_256.as_bytes();
const PLUS: &[u8] = SCRAM_SHA_256_PLUS.as_bytes();

impl Login {
    /// SCRAM-SHA-256. A claim that cannot be true gets an exchange that cannot succeed, so that
    /// neither the answer nor its time tells a wrong password from an unknown role or tenant.
    pub(super) async fn authenticate(&mut self, claim: &Claim) -> Result<(), LoginEnd> {
        let end_point = self
            .secured
            .as_ref()
            .and_then(|secured| secured.end_point.clone());
        let offered: &[&str] = match end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        };
        backend::put_auth_sasl(&mut self.output, offered);
        self.flush().await?;
        let message = self.authentication_message().await?;
        let initial = match frontend::sasl_initial(message.body()) {
            Ok(initial) => initial,
            Err(error) => return Err(self.protocol(&error.to_string()).await),
        };
        let binding = match (initial.mechanism, end_point) {
            (PLUS, Some(hash)) => ChannelBinding::ServerEndPoint(hash),
            (PLAIN, Some(_)) => ChannelBinding::Offered,
            (PLAIN, None) => ChannelBinding::Unavailable,
            _ => {
                return Err(self
                    .protocol("client selected an invalid SASL authentication mechanism")
                    .await);
            }
        };
        let mut exchange = ServerExchange::new(self.verifier(claim), binding);
        let mut step = exchange.step(initial.response.unwrap_or_default());
        loop {
            match step {
                Step::Continue(reply) => {
                    backend::put_auth_sasl_continue(&mut self.output, &reply);
                    self.flush().await?;
                }
                Step::Success(reply) => {
                    backend::put_auth_sasl_final(&mut self.output, &reply);
                    return self.check_certificate(claim).await;
                }
                Step::Failure(error) => return Err(self.failed(claim, &error).await),
            }
            let message = self.authentication_message().await?;
            // Again, for those who came together before the first of them had failed.
            if let Some(refusal) = self.router.throttled_login(self.from) {
                return Err(self.refuse(&refusal).await);
            }
            step = exchange.step(message.body());
        }
    }

    /// What is told of a failure must be the same for every reason but one: that the connection's two ends see
    /// different certificates says nothing about the role.
    async fn failed(&mut self, claim: &Claim, error: &ScramError) -> LoginEnd {
        tracing::info!(user = claim.user, from = %self.from, %error, "login failed");
        let per_minute = self.router.config().login_failure_rate_max;
        self.router.arrivals.failed(self.from, per_minute);
        let refusal = match error {
            ScramError::ChannelBinding => Refusal::ChannelBinding,
            _ => Refusal::Authentication {
                user: claim.user.clone(),
            },
        };
        self.refuse(&refusal).await
    }

    /// `verify-full`: the certificate must be the role's own. Asked last, as PostgreSQL does, so that who does not
    /// know the password learns nothing.
    async fn check_certificate(&mut self, claim: &Claim) -> Result<(), LoginEnd> {
        if self.tls.settings.sslmode != ClientSslMode::VerifyFull {
            return Ok(());
        }
        let role = claim.role.as_ref().map(|role| role.name.clone());
        let common_name = self
            .secured
            .as_ref()
            .and_then(|secured| secured.certificate.as_ref()?.common_name.clone());
        if role.is_some() && role == common_name {
            return Ok(());
        }
        let refusal = Refusal::CertificateMismatch {
            role: role.unwrap_or_default(),
            common_name,
        };
        tracing::info!(user = claim.user, from = %self.from, error = %refusal, "login failed");
        Err(self.refuse(&refusal).await)
    }

    /// The role's verifier, or one that no password fits. The salt is sent to whoever asks, so it
    /// must not tell either: it is the role's where there is one, whatever the tenant, and for an
    /// unknown role it does not depend on the tenant.
    fn verifier(&self, claim: &Claim) -> Verifier {
        let Some(role) = &claim.role else {
            let role = claim.user.split('.').next().unwrap_or_default();
            return Verifier::mock(role, &**self.router.mock_secret());
        };
        match Verifier::parse(&role.verifier) {
            Ok(verifier) if claim.is_credible(jiff::Timestamp::now()) => verifier,
            Ok(verifier) => verifier.refusing(),
            Err(error) => {
                tracing::error!(role = role.name, %error, "the catalog's verifier is unusable");
                Verifier::mock(&role.name, &**self.router.mock_secret())
            }
        }
    }

    async fn authentication_message(&mut self) -> Result<Message, LoginEnd> {
        loop {
            match Message::take(&mut self.input, AUTHENTICATION_LIMIT) {
                Ok(Some(message)) if message.tag == tag::PASSWORD => return Ok(message),
                Ok(Some(_)) => return Err(self.protocol("expected SASL response").await),
                Ok(None) => {}
                Err(error) => return Err(self.protocol(&error.to_string()).await),
            }
            self.fill().await?;
        }
    }
}
