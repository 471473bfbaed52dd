//! From accept to the first ReadyForQuery: startup, who it is, SCRAM, what the session starts with.

mod authenticate;
mod handshake;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use tenantry_schema::fleet::Role;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend::{self, ErrorFields, TxStatus};
use tenantry_wire::startup::{ProtocolVersion, StartupParams};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::Severity;
use crate::activity::{Called, ClientGuard, ClientOrigin, Meter};
use crate::arrivals::Arrival;
use crate::cancel::Registration;
use crate::config::{CONSOLE_DATABASE, SHARD_DATABASE};
use crate::console::Console;
use crate::direct::{self, Direct, OpenError};
use crate::error::Refusal;
use crate::identify::{Claim, Destination, Granted};
use crate::limits::Gate;
use crate::places::Place;
use crate::reported::ReportedError;
use crate::route::Route;
use crate::router::{Reported, Router};
use crate::session::driver::{Bells, Connection, Ended};
use crate::session::{Identity, Session};
use crate::stream::Stream;
use crate::tls::{ClientSide, Secured};

/// Sessions on the console beyond `clients_max`: a router that is full is one to look at.
const CONSOLE_RESERVE: usize = 8;

/// A client that is logged in.
pub(crate) struct LoggedIn {
    pub(crate) serving: Serving,
    /// Keeps the cancel key valid.
    pub(crate) registration: Registration,
    /// Keeps the session among those that operators see.
    pub(crate) listed: ClientGuard,
    /// Keeps its place among the sessions of its role.
    pub(crate) role_place: Option<Place<String>>,
}

/// What a client gets. Boxed each, and run in a box of its own: an idle session takes the room that
/// its kind needs.
pub(crate) enum Serving {
    /// Its tenants' rows, wherever they live.
    Fleet(Box<Connection>),
    /// One shard.
    Shard(Box<Direct>),
    /// The router itself.
    Console(Box<Console>),
}

impl Serving {
    pub(crate) async fn run(self) -> Ended {
        match self {
            Self::Console(console) => {
                Box::pin(console.run()).await;
                Ended::Orderly
            }
            Self::Fleet(connection) => Box::pin(connection.run()).await,
            Self::Shard(direct) => Box::pin(direct.run()).await,
        }
    }
}

/// Why a connection does not become a session.
#[derive(Debug)]
pub(crate) enum LoginEnd {
    /// A cancel request, or a client that left.
    Done,
    /// The client was told.
    Refused(&'static str),
}

impl From<std::io::Error> for LoginEnd {
    fn from(_: std::io::Error) -> Self {
        Self::Done
    }
}

/// One client connection before its session.
struct Login {
    router: Arc<Router>,
    /// Until it has authenticated.
    arrival: Option<Arrival>,
    /// What client and router speak, once the startup packet has come.
    version: ProtocolVersion,
    /// The startup packet has come.
    has_started: bool,
    /// What was in force when the connection came.
    tls: Arc<ClientSide>,
    /// Where the client is.
    from: IpAddr,
    /// Why the client's address has to wait; told as soon as the client can understand it.
    throttled: Option<Refusal>,
    stream: Stream,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    /// What TLS has shown, if the connection is encrypted.
    secured: Option<Secured>,
    input: BytesMut,
    output: BytesMut,
    /// There once the client is who it says.
    role_place: Option<Place<String>>,
}

/// Logs a client in. The caller bounds the time.
pub(crate) async fn login(
    router: Arc<Router>,
    socket: TcpStream,
    from: IpAddr,
) -> Result<LoggedIn, LoginEnd> {
    let login = Login {
        arrival: Some(router.arrive()),
        version: ProtocolVersion::V3_0,
        has_started: false,
        tls: router.client_tls.current(),
        throttled: router.throttled(from),
        from,
        router,
        peer: socket.peer_addr().ok(),
        local: socket.local_addr().ok(),
        stream: Stream::Plain(socket),
        secured: None,
        input: BytesMut::with_capacity(1024),
        output: BytesMut::new(),
        role_place: None,
    };
    let (mut login, accepted) = login.handshake().await?;
    let fleet = login.router.fleet.current();
    let database = login.router.config().database.clone();
    let claim = match Claim::read(&fleet, &database, &accepted.params) {
        Ok(claim) => claim.with_server_name(&fleet, login.server_name(), login.tls.sni_suffix()),
        Err(refusal) => return Err(login.refuse(&refusal).await),
    };
    login.admit_to(&claim.destination).await?;
    if let Some(negotiation) = &accepted.negotiation {
        backend::put_negotiate_protocol_version(
            &mut login.output,
            negotiation.newest_minor,
            &negotiation.unrecognised,
        );
    }
    login.authenticate(&claim).await?;
    login.arrival = None;
    login.version = accepted.version;
    login.start(claim, &accepted.params).await
}

impl Login {
    /// The authenticated client's session.
    async fn start(mut self, claim: Claim, params: &StartupParams) -> Result<LoggedIn, LoginEnd> {
        let fleet = self.router.fleet.current();
        let Some(role) = claim.role.clone() else {
            let user = claim.user.clone();
            return Err(self.refuse(&Refusal::Authentication { user }).await);
        };
        let granted = match claim.grant(&fleet, &role) {
            Ok(granted) => granted,
            Err(refusal) => return Err(self.refuse(&refusal).await),
        };
        match self.router.place_of(&role) {
            Ok(place) => self.role_place = Some(place),
            Err(refusal) => return Err(self.refuse(&refusal).await),
        }
        match &claim.destination {
            Destination::Fleet => self.start_session(claim, role, granted).await,
            Destination::Shard(name) => self.start_direct(name, role, params).await,
            Destination::Console => self.start_console(&claim, &role).await,
        }
    }

    /// An operator's session on one shard.
    async fn start_direct(
        mut self,
        shard: &str,
        role: Arc<Role>,
        params: &StartupParams,
    ) -> Result<LoggedIn, LoginEnd> {
        let router = Arc::clone(&self.router);
        let fleet = router.fleet.current();
        let mut opened = match direct::open(&router, &fleet, shard, params).await {
            Ok(opened) => opened,
            Err(OpenError::Refused(refusal)) => return Err(self.refuse(&refusal).await),
            Err(OpenError::Server(fields)) => return Err(self.pass_on(*fields).await),
        };
        let registration = router.cancels.register_direct(opened.key(), self.version);
        opened.greet(&registration, &mut self.output);
        self.flush().await?;
        let application_name = params.parameter("application_name").unwrap_or_default();
        let listed = self.list(
            &registration,
            &role,
            format!("{SHARD_DATABASE}/{shard}"),
            application_name.to_owned(),
            None,
            None,
        );
        let direct = Direct {
            router,
            client: self.stream,
            input: self.input,
            opened,
            user: role.name.clone(),
            called: Called::new(listed.record()),
        };
        Ok(LoggedIn {
            serving: Serving::Shard(Box::new(direct)),
            registration,
            listed,
            role_place: self.role_place,
        })
    }

    /// An operator's session on the router. It greets the client itself.
    async fn start_console(
        mut self,
        claim: &Claim,
        role: &Arc<Role>,
    ) -> Result<LoggedIn, LoginEnd> {
        let limit = self.router.config().clients_max;
        let registered = self
            .router
            .cancels
            .register(limit + CONSOLE_RESERVE, self.version);
        let Some(registration) = registered else {
            return Err(self.refuse(&Refusal::TooManyClients { limit }).await);
        };
        let name = claim.settings.application_name().unwrap_or_default();
        let database = CONSOLE_DATABASE.to_owned();
        let listed = self.list(&registration, role, database, name, None, None);
        let console = Console {
            router: self.router,
            stream: self.stream,
            input: self.input,
            greeting: self.output,
            slot: Arc::clone(&registration.slot),
            record: Arc::clone(listed.record()),
            meter: Meter::new(listed.record(), claim.settings.hash()),
        };
        Ok(LoggedIn {
            serving: Serving::Console(Box::new(console)),
            registration,
            listed,
            role_place: self.role_place,
        })
    }

    /// Puts the session among those that operators see.
    fn list(
        &self,
        registration: &Registration,
        role: &Arc<Role>,
        database: String,
        application_name: String,
        tenant: Option<TenantId>,
        trace: Option<String>,
    ) -> ClientGuard {
        self.router.activity.client(ClientOrigin {
            id: registration.slot.number(),
            pid: registration.slot.pid(),
            role: Arc::clone(role),
            database,
            peer: self.peer,
            local: self.local,
            tls: self
                .secured
                .as_ref()
                .map_or_else(String::new, |secured| secured.description.clone()),
            application_name,
            tenant,
            trace,
        })
    }

    /// A session on the tenants' rows.
    async fn start_session(
        mut self,
        claim: Claim,
        role: Arc<Role>,
        granted: Granted,
    ) -> Result<LoggedIn, LoginEnd> {
        let router = Arc::clone(&self.router);
        let limit = router.config().clients_max;
        let Some(registration) = router.cancels.register(limit, self.version) else {
            return Err(self.refuse(&Refusal::TooManyClients { limit }).await);
        };
        let mut gate = Gate::default();
        let time_limits = match router.admit_session(&mut gate, granted.tenant) {
            Ok(limits) => limits,
            Err(refusal) => return Err(self.refuse(&refusal).await),
        };
        let reported = match router.reported(&claim.settings).await {
            Ok(reported) => reported,
            Err(error) => return Err(self.unreported(error).await),
        };
        self.greet(&reported, &registration);
        self.flush().await?;
        let Granted { tenant, bound } = granted;
        let application_name = claim.settings.application_name().unwrap_or_default();
        let database = router.config().database.clone();
        let listed = self.list(
            &registration,
            &role,
            database,
            application_name,
            tenant,
            claim.trace.clone(),
        );
        listed.record().set_time_limits(time_limits);
        let settings_hash = claim.settings.hash();
        let identity = Identity {
            session: u64::from(registration.slot.pid().unsigned_abs()),
            role,
            bound,
        };
        let session = Session::new(
            Arc::clone(&router.shared),
            identity,
            tenant,
            claim.settings,
            reported,
        );
        Ok(LoggedIn {
            serving: Serving::Fleet(Box::new(Connection {
                route: Route::default(),
                moving: None,
                router,
                stream: self.stream,
                input: self.input,
                session,
                gate,
                bells: Bells::new(),
                slot: Arc::clone(&registration.slot),
                meter: Meter::new(listed.record(), settings_hash),
                called: Called::new(listed.record()),
            })),
            registration,
            listed,
            role_place: self.role_place,
        })
    }

    fn greet(&mut self, reported: &Reported, registration: &Registration) {
        backend::put_auth_ok(&mut self.output);
        for (name, value) in reported.iter() {
            backend::put_parameter_status(&mut self.output, name, value);
        }
        let slot = &registration.slot;
        backend::put_backend_key_data(&mut self.output, slot.pid(), slot.key());
        backend::put_ready(&mut self.output, TxStatus::Idle);
    }

    fn server_name(&self) -> Option<&str> {
        self.secured.as_ref()?.server_name.as_deref()
    }

    async fn flush(&mut self) -> Result<(), LoginEnd> {
        let output = self.output.split();
        Ok(self.stream.send(&output).await?)
    }

    async fn unreported(&mut self, error: ReportedError) -> LoginEnd {
        match error {
            ReportedError::Refused(refusal) => self.refuse(&refusal).await,
            ReportedError::Broken => self.refuse(&Refusal::NoShard).await,
            ReportedError::Invalid(fields) => self.pass_on(*fields).await,
        }
    }

    /// A server's error, as one that ends the connection.
    async fn pass_on(&mut self, mut fields: ErrorFields) -> LoginEnd {
        fields.severity = Severity::Fatal;
        fields.localised_severity = None;
        backend::put_error(&mut self.output, &fields);
        self.leave().await;
        LoginEnd::Refused("REFUSED_BY_SERVER")
    }

    async fn refuse(&mut self, refusal: &Refusal) -> LoginEnd {
        backend::put_error(&mut self.output, &refusal.fields(Severity::Fatal));
        self.leave().await;
        LoginEnd::Refused(refusal.name())
    }

    async fn protocol(&mut self, message: &str) -> LoginEnd {
        let message = message.to_owned();
        self.refuse(&Refusal::Protocol { message }).await
    }

    /// Writes what is owed; the client may be gone already, and there is nobody else to tell.
    async fn leave(&mut self) {
        let output = self.output.split();
        if self.stream.send(&output).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}
